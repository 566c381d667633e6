"""The orientation network: a distribution over (zone axis x in-plane rotation).

The polar pattern is a ring of angles with all radii as channels.  Every layer does the same
at every angle, so that a pattern turned by one step of the ring gives the same logits moved
by one step: the network is equivariant to in-plane rotation by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.devices import as_column
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.networks.outline import moved
from pyxem_dl.networks.verifier import CandidateVerifier, PolarView, channels_of

# Residuals and soft labels live on this scale (radians): about the distance between nodes.
_NODE_SCALE = math.radians(3.0)
# Nodes closer than this to a mode's best node belong to it (radians).
_MODE_RADIUS = math.radians(6.0)
_TOP_NODES = 20
# Proposals that the verifier looks at, and how many of them twice.  The right one is hardly
# ever further down.
N_PROPOSED, _N_VERIFIED = 4, 2
# Patterns that are verified at once on a CPU, where not all are
_TOGETHER = 32
# Probabilities (float32) that a core's cache holds
_CACHED = 2**18


class _Ring(nn.Conv1d):
    """Convolution over a ring of angles (n, angles, channels), the channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve all channels."""
        return self._convolve(x, self.weight, self.bias)

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Close the ring, and convolve in the memory format in which this is fastest."""
        around = self.kernel_size[0] - self.stride[0]
        before = around // 2
        x = torch.cat([x[:, x.shape[1] - before :], x, x[:, : around - before]], dim=1)
        weight = weight[:, :, None].contiguous(memory_format=torch.channels_last)
        y = nn.functional.conv2d(x.transpose(1, 2)[:, :, None], weight, bias, (1, *self.stride), groups=self.groups)
        return y[:, :, 0].transpose(1, 2)


class _Stem(_Ring):
    """The first convolution: of channels that come apart, for what all patterns share is convolved once."""

    def forward(self, channels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Convolve polar patterns, a tensor (n or 1, n_k, n_phi) for each channel."""
        y, bias = None, self.bias
        weights = self.weight.chunk(len(channels), dim=1)
        for channel, weight in zip(channels, weights, strict=True):
            x = _as_computed(channel).transpose(1, 2)
            part = self._convolve(x, weight, bias)
            y, bias = part if y is None else y + part, None
        return y


def _as_computed(x: torch.Tensor) -> torch.Tensor:
    """In the type that matrix products take here, so that what is moved through the memory before is small."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _Block(nn.Module):
    """Look around the ring, then at the whole of it, then mix the channels."""

    def __init__(self, width: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.around = _Ring(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.whole = nn.Linear(width, width)
        self.mix_in = nn.Linear(width, expansion * width)
        self.mix_out = nn.Linear(expansion * width, width)
        nn.init.zeros_(self.mix_out.weight)
        nn.init.zeros_(self.mix_out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.around(x))
        y = y + self.whole(y.mean(dim=1, keepdim=True))
        return x + self.mix_out(nn.functional.gelu(self.mix_in(y)))


class PolarNetwork(nn.Module):
    """Score every zone axis of a grid at every in-plane angle, and refine.

    Parameters
    ----------
    laue_groups : list of str
        Laue group of each phase (orix' names).
    settings : list of quaternion, optional
        Rotation from orix' setting of each group to the phase's, see
        :func:`pyxem_dl.symmetry.setting`; by default none.
    n_k, n_phi : int
        Shape of the polar pattern; `n_phi` is a multiple of `phi_steps`.
    channels : int
        Of the polar pattern.
    phi_steps : int
        In-plane nodes: 72 are 5 degrees apart.
    resolution : float
        Distance between zone axes of the grid, in degrees.
    width, depth, kernel, expansion : int
        Size of the network; `kernel` counts in-plane nodes and is odd.
    comparison : dict, optional
        Arguments of the :class:`~pyxem_dl.networks.verifier.CandidateVerifier` that
        verifies the proposals, other than the number of phases.
    """

    #: Channels may come apart, see :meth:`predict`
    channels_apart = True

    def __init__(
        self,
        laue_groups: list[str],
        settings: list[list[float]] | None = None,
        n_k: int = 64,
        n_phi: int = 144,
        channels: int = 2,
        phi_steps: int = 72,
        resolution: float = 3.0,
        width: int = 128,
        depth: int = 4,
        kernel: int = 37,
        expansion: int = 2,
        comparison: dict | None = None,
    ) -> None:
        super().__init__()
        if n_phi % phi_steps or kernel % 2 == 0 or kernel > 2 * phi_steps:
            raise ValueError("n_phi must be a multiple of phi_steps; kernel must be odd and smaller than n_phi.")
        self.arguments = {
            "laue_groups": list(laue_groups), "settings": settings, "n_k": n_k, "n_phi": n_phi, "channels": channels,
            "phi_steps": phi_steps, "resolution": resolution, "width": width, "depth": depth,
            "kernel": kernel, "expansion": expansion, "comparison": comparison,
        }
        self.phi_steps, self.n_phases = phi_steps, len(laue_groups)
        self._make_grid(laue_groups, settings, resolution)
        stride = n_phi // phi_steps
        self.stem = _Stem(channels * n_k, width, 2 * stride + stride % 2, stride=stride)
        self.blocks = nn.ModuleList(_Block(width, kernel, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, len(self.nodes))
        self.empty = nn.Linear(2 * width, 1)
        self.residual_features = nn.Linear(width, width // 2)
        self.residual_node = nn.Embedding(len(self.nodes), width // 2)
        self.residual = nn.Linear(width // 2, 3)
        nn.init.normal_(self.residual_node.weight, std=0.5)
        self.comparison = None  # the verifier; called so in the files of models
        if comparison is not None:
            self.add_verifier(**comparison)

    def add_verifier(self, **arguments) -> None:
        """Add a network that verifies the proposals; see its class for the arguments."""
        self.comparison = moved(CandidateVerifier(self.n_phases, **arguments), self.nodes.device)
        self.arguments["comparison"] = arguments

    def take_for_certain(self, threshold: float) -> None:
        """Look at proposals that are more probable alone, and once: part of the network's arguments from now on."""
        self.comparison.certain = threshold
        others = {name: value for name, value in self.arguments["comparison"].items() if name != "certain"}
        self.arguments["comparison"] = others | ({"certain": threshold} if threshold < 1 else {})

    def _make_grid(self, laue_groups: list[str], settings, resolution: float) -> None:
        groups = [symmetry.laue_group(name) for name in laue_groups]
        turns = torch.tensor(settings or [[1.0, 0.0, 0.0, 0.0]] * len(groups))
        grids = [
            rot.multiply(turn, symmetry.reduced_grid(group, resolution))
            for turn, group in zip(turns, groups, strict=True)
        ]
        self.register_buffer("nodes", torch.cat(grids), persistent=False)
        phase = torch.repeat_interleave(
            torch.arange(len(grids)), torch.tensor([len(grid) for grid in grids])
        )
        self.register_buffer("node_phase", phase, persistent=False)
        self.register_buffer("operations", symmetry.padded_operations(laue_groups, settings), persistent=False)
        n_operations = torch.tensor([len(torch.unique(o, dim=0)) for o in self.operations])
        self.register_buffer("n_operations", n_operations, persistent=False)

    # ---------------------------------------------------------------- forward
    def features(self, polar: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Features (n, phi_steps, width) of polar patterns, see :meth:`predict`."""
        x = self.stem(channels_of(polar))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (n, phi_steps * n_nodes + 1); the last is "no crystal here"."""
        return torch.cat([self.score(features).flatten(1), self._empty(features)], dim=1)

    def _empty(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (n, 1) of "no crystal here"."""
        return self.empty(torch.cat([features.mean(1), features.amax(1)], dim=-1))

    def forward(self, polar: torch.Tensor) -> torch.Tensor:
        """Logits of polar patterns."""
        return self.logits(self.features(polar))

    def residuals(self, features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Rotation vectors (n, m, 3) at the flat nodes `index` (n, m), in radians."""
        step = torch.div(index, len(self.nodes), rounding_mode="floor")
        row = step + torch.arange(len(features), device=step.device)[:, None] * self.phi_steps
        h = self.residual_features(features.flatten(0, 1)[row])
        h = nn.functional.gelu(h + self.residual_node(index % len(self.nodes)))
        return _NODE_SCALE * self.residual(h).float()

    def node_rotations(self, index: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Orientations (..., 4) of flat nodes `index` (...) with residuals (..., 3)."""
        step = torch.div(index, len(self.nodes), rounding_mode="floor")
        node = self.nodes[index % len(self.nodes)]
        angle = step * (2 * math.pi / self.phi_steps)
        return rot.rotate_in_plane(rot.multiply(node, rot.exponential(residual)), angle.to(node))

    # ---------------------------------------------------------------- labels and loss
    def labels(
        self, rotations: torch.Tensor, phase_id: torch.Tensor, n_axes: int = 6
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Spread true orientations over the nodes around them.

        Parameters
        ----------
        rotations : tensor, shape (n, 4)
            Lab to crystal.
        phase_id : tensor of int, shape (n,)
            -1 where there is no crystal.
        n_axes : int
            Nearest zone axes that share the label, symmetrically equivalent ones included.

        Returns
        -------
        index : tensor of int, shape (n, 2 * n_axes)
            Flat nodes.
        weight : tensor, shape (n, 2 * n_axes)
            Their shares, which sum to 1.
        residual : tensor, shape (n, 2 * n_axes, 3)
            Rotation vectors from the nodes to the truth, in radians.
        """
        n, n_nodes = len(rotations), len(self.nodes)
        phase = phase_id.clamp_min(0)
        equivalent = rot.multiply(self.operations[phase], rotations[:, None])
        closeness = rot.matmul(rot.zone_axes(equivalent), rot.zone_axes(self.nodes).T)
        foreign = self.node_phase[None] != phase[:, None]
        closeness = closeness.masked_fill(foreign[:, None], -2.0).flatten(1)
        # Repeated operations (padding) must not take two of the places
        place = torch.arange(self.operations.shape[1], device=phase.device)
        padding = place[None] >= self.n_operations[phase][:, None]
        closeness = closeness.masked_fill(padding.repeat_interleave(n_nodes, dim=1), -2.0)
        nearest = closeness.topk(n_axes, dim=1).indices
        operation = torch.div(nearest, n_nodes, rounding_mode="floor")
        node = nearest % n_nodes
        moved = equivalent.gather(1, operation[..., None].expand(-1, -1, 4))
        relative = rot.multiply(rot.conjugate(self.nodes[node]), moved)
        _, angle = rot.split_in_plane(relative)
        pitch = 2 * math.pi / self.phi_steps
        low = torch.floor(angle / pitch)
        step = torch.stack([low, low + 1], dim=-1)
        residual = rot.logarithm(rot.rotate_in_plane(relative[:, :, None], -step * pitch))
        distance = residual.norm(dim=-1)
        weight = torch.exp(-0.5 * (distance / (0.6 * _NODE_SCALE)) ** 2).reshape(n, -1)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
        index = (step.long() % self.phi_steps) * n_nodes + node[..., None]
        return index.reshape(n, -1), weight, residual.reshape(n, -1, 3)

    def loss(
        self, polar: torch.Tensor, rotations: torch.Tensor, phase_id: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy over nodes plus the squared residual, averaged over the patterns."""
        index, weight, residual = self.labels(rotations, phase_id)
        features = self.features(polar)
        logits = self.logits(features).float()
        empty = phase_id < 0
        chosen = (weight * logits.gather(1, index)).sum(1)
        chosen = torch.where(empty, logits[:, -1], chosen)
        cross_entropy = (logits.logsumexp(1) - chosen).mean()
        error = self.residuals(features, index) - residual
        squared = ((error / _NODE_SCALE) ** 2).sum(-1)
        squared = (squared * weight).sum(1)
        refinement = (squared * ~empty).sum() / (~empty).sum().clamp_min(1)
        parts = {"cross_entropy": cross_entropy.detach(), "refinement": refinement.detach()}
        return cross_entropy + refinement, parts

    # ---------------------------------------------------------------- prediction
    def propose(self, polar: torch.Tensor | Sequence[torch.Tensor], n_best: int = 2) -> OrientationCandidates:
        """Separated modes of the distribution; see :class:`OrientationCandidates`."""
        features = self.features(polar)
        p, index, crystal = self._best_nodes(features)
        rotations = self.node_rotations(index, self.residuals(features, index))
        phase_id = self.node_phase[index % len(self.nodes)]
        return self.separate_modes(rotations, phase_id, p, crystal, n_best)

    def _best_nodes(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Probabilities (n, m) and flat indices (n, m) of the best nodes, and the probability (n,) of a crystal."""
        n_axes, at_once = len(self.nodes), len(features)
        if features.device.type == "cpu":
            # as many patterns as leave their probabilities in a core's cache; a power of two divides micro-batches
            at_once = max(1, 2 ** ((_CACHED // (self.phi_steps * n_axes)).bit_length() - 1))
        weight, bias = _as_computed(self.score.weight), _as_computed(self.score.bias)
        parts = []
        for part, empty in zip(features.split(at_once), self._empty(features).split(at_once), strict=True):
            logits = nn.functional.linear(part, weight, bias).flatten(1)
            probability = torch.cat([logits, empty], dim=1).softmax(1, dtype=torch.float32)
            pairs = probability[:, :-1].unflatten(1, (self.phi_steps, n_axes))
            # the best m pairs of angle and zone axis are among those of the m zone axes that are best at some angle
            axis = pairs.amax(1).topk(min(_TOP_NODES, n_axes), dim=1).indices
            parts.append((pairs.gather(2, axis[:, None].expand(-1, self.phi_steps, -1)), axis, probability[:, -1]))
        pairs, axis, empty = (torch.cat(column) for column in zip(*parts, strict=True))
        p, place = pairs.flatten(1).topk(min(_TOP_NODES, pairs[0].numel()), dim=1)
        step = torch.div(place, axis.shape[1], rounding_mode="floor")
        return p, step * n_axes + axis.gather(1, place - step * axis.shape[1]), 1 - empty

    def predict(self, polar: torch.Tensor | Sequence[torch.Tensor], n_best: int = 2) -> OrientationCandidates:
        """Propose orientations, and verify them where a verifier is there.

        Parameters
        ----------
        polar : tensor, shape (n, channels, n_k, n_phi), or sequence of tensors, shapes (n or 1, n_k, n_phi)
            Preprocessed patterns; or their channels, where one that all patterns share may be there once.
        n_best : int
            Number of separated orientations to return.

        Returns
        -------
        OrientationCandidates
            Most probable first; where they are verified, the first four are, and further ones follow as they were
            proposed.  Those that the verifier takes for certain are only improved.
        """
        if self.comparison is None:
            return self.propose(polar, n_best)
        proposed = self.propose(polar, max(n_best, N_PROPOSED))
        view, threshold = PolarView.of(polar), self.comparison.certain
        if threshold >= 1:
            return self._verify(view, proposed, n_best)
        certain = proposed.scores[:, 0] > threshold
        if certain.device.type != "cpu":  # to ask which they are would be to wait for the device
            improved, verified = self._improve_best(view, proposed, n_best), self._verify(view, proposed, n_best)
            pairs = zip(improved, verified, strict=True)
            return OrientationCandidates(*(torch.where(as_column(certain, new), new, old) for new, old in pairs))
        found = OrientationCandidates(*(column[:, :n_best].clone() for column in proposed[:3]), proposed.crystal)
        for look, mask in ((self._improve_best, certain), (self._verify, ~certain)):
            for rows, kept in _micro_batches(mask.nonzero()[:, 0]):
                seen = look(view.at(rows), OrientationCandidates(*(column[rows] for column in proposed)), n_best)
                for column, new in zip(found[:3], seen[:3], strict=True):
                    column[rows[:kept]] = new[:kept]
        return found

    def _improve_best(self, view: PolarView, proposed: OrientationCandidates, n_best: int) -> OrientationCandidates:
        """Improve the best proposals, and leave the others and the probabilities as they are."""
        rotations, phases, p = (column[:, :1] for column in proposed[:3])
        _, better = self.comparison.improve(view, rotations, phases, p.clamp_min(1e-6).log())
        rotations, phases, p = (column[:, :n_best] for column in proposed[:3])
        return OrientationCandidates(torch.cat([better, rotations[:, 1:]], dim=1), phases, p, proposed.crystal)

    def _verify(self, view: PolarView, proposed: OrientationCandidates, n_best: int) -> OrientationCandidates:
        """Look at the first proposals, and again at the best of them: they share out anew what they had together."""
        # Always the same number is compared: predictions must not depend on n_best.
        rotations, phases, p = (column[:, :N_PROPOSED] for column in proposed[:3])
        log_p = p.clamp_min(1e-6).log()
        score, rotations = self.comparison.improve(view, rotations, phases, log_p)
        best = score.topk(_N_VERIFIED, dim=1).indices
        at = best[..., None].expand(-1, -1, 4)
        again, better = self.comparison.improve(
            view, rotations.gather(1, at), phases.gather(1, best), log_p.gather(1, best)
        )
        rotations = rotations.scatter(1, at, better)
        # The verifier shares out what the proposals had together: noise stays improbable.  The
        # second look is at the best of the first, and shares out what those had.
        share = score.softmax(dim=1)
        second = again.softmax(dim=1) * share.gather(1, best).sum(1, keepdim=True)
        p = share.scatter(1, best, second) * p.sum(1, keepdim=True)
        # candidates may have met on the way
        found = self.separate_modes(rotations, phases, p, proposed.crystal, min(n_best, N_PROPOSED))
        return _append(found, proposed) if n_best > N_PROPOSED else found

    def separate_modes(self, rotations, phase_id, p, crystal, n_best) -> OrientationCandidates:
        """Gather nodes (n, m) of one orientation into modes, and sum their probabilities."""
        n, m = p.shape
        every = torch.arange(n, device=p.device)
        equivalent = self._equivalent(rotations, phase_id)
        # <S q_i, q_j> for all pairs, and the largest over S
        product = rot.matmul(equivalent.flatten(1, 2), rotations.transpose(1, 2)).unflatten(1, (-1, m))
        cosine = product.abs().amax(1) * (phase_id[:, :, None] == phase_id[:, None])
        together = (cosine > math.cos(_MODE_RADIUS / 2)).to(p)
        results = []
        left = p
        for _ in range(n_best):
            mass = rot.matmul(left[:, None], together)[:, 0]
            best = mass.argmax(dim=1)
            members = together[every, :, best] * left
            # members written beside the best node: the nearest symmetric copy (several ones are the same), same sign
            to_best, distance = product[every, :, :, best], cosine[every, :, best]
            nearest = (to_best.abs() == distance[:, None]).to(p)
            weight = to_best.sign() * nearest * (members / nearest.sum(1).clamp_min(1))[:, None]
            mean = rot.matmul(weight.flatten(1)[:, None], equivalent.flatten(1, 2))[:, 0]
            total = members.sum(1)
            mean = torch.where(total[:, None] > 0, mean, rotations[every, best])
            results.append((nn.functional.normalize(mean, dim=-1), phase_id[every, best], total))
            # what is left over within two radii is a flank of this mode, no other mode
            left = left * (distance <= math.cos(_MODE_RADIUS))
        columns = [torch.stack(column, dim=1) for column in zip(*results, strict=True)]
        return OrientationCandidates(*columns, crystal)

    def _equivalent(self, rotations: torch.Tensor, phase_id: torch.Tensor) -> torch.Tensor:
        """Symmetrically equivalent quaternions (n, operations, m, 4) of rotations (n, m, 4)."""
        n, m = phase_id.shape
        # a product with all operations of all phases is one of matrices, whatever is taken of it then
        unit = torch.eye(4, device=rotations.device)
        from_left = rot.multiply(self.operations, unit[:, None, None])
        every = rot.matmul(rotations.reshape(-1, 4), from_left.flatten(1)).unflatten(1, from_left.shape[1:])
        own = every[torch.arange(n * m, device=rotations.device), phase_id.flatten()]
        return own.unflatten(0, (n, m)).transpose(1, 2).contiguous()


def _micro_batches(rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    """Divide numbers of rows into micro-batches of one size, for it must not show in the predictions.

    Yields
    ------
    rows : tensor of int, shape (_TOGETHER,)
        The last one fills the last micro-batch.
    kept : int
        How many are not there to fill it.
    """
    for some in rows.split(_TOGETHER) if len(rows) else ():
        kept = len(some)
        yield torch.cat([some, some[-1:].expand(_TOGETHER - kept)]), kept


def _append(found: OrientationCandidates, proposed: OrientationCandidates):
    """Let the proposals that nobody looked at follow those that were verified."""
    columns = [
        torch.cat([first, later[:, N_PROPOSED:]], dim=1) for first, later in zip(found[:3], proposed[:3], strict=True)
    ]
    # places that became empty when candidates met go to the end
    order = (columns[2] <= 0).long().argsort(dim=1, stable=True)
    columns[0] = columns[0].gather(1, order[..., None].expand(-1, -1, 4))
    columns[1:] = (column.gather(1, order) for column in columns[1:])
    return OrientationCandidates(*columns, found.crystal)
