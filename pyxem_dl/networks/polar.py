"""The orientation network: a distribution over (zone axis x in-plane rotation).

The polar pattern is a ring of angles with all radii as channels.  Every layer does the same
at every angle, so that a pattern turned by one step of the ring gives the same logits moved
by one step: the network is equivariant to in-plane rotation by construction.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.networks.comparison import CandidateComparison, PolarView
from pyxem_dl.networks.outline import moved

# Residuals and soft labels live on this scale (radians): about the distance between nodes.
_NODE_SCALE = math.radians(3.0)
# Nodes closer than this to a mode's best node belong to it (radians).
_MODE_RADIUS = math.radians(6.0)
_TOP_NODES = 20
# Proposals that the comparison looks at, and how many of them twice.  The right one is hardly
# ever further down.
N_PROPOSED, _N_VERIFIED = 4, 2


class _Ring(nn.Conv1d):
    """Convolution over a ring of angles (n, angles, channels), the channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Close the ring, and convolve in the memory format in which this is fastest."""
        around = self.kernel_size[0] - self.stride[0]
        before = around // 2
        x = torch.cat([x[:, x.shape[1] - before :], x, x[:, : around - before]], dim=1)
        weight = self.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        y = nn.functional.conv2d(
            x.transpose(1, 2)[:, :, None], weight, self.bias, (1, *self.stride), groups=self.groups
        )
        return y[:, :, 0].transpose(1, 2)


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
        Arguments of the :class:`~pyxem_dl.networks.comparison.CandidateComparison` that
        verifies the proposals, other than the number of phases.
    """

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
        self.stem = _Ring(channels * n_k, width, 2 * stride + stride % 2, stride=stride)
        self.blocks = nn.ModuleList(_Block(width, kernel, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, len(self.nodes))
        self.empty = nn.Linear(2 * width, 1)
        self.residual_features = nn.Linear(width, width // 2)
        self.residual_node = nn.Embedding(len(self.nodes), width // 2)
        self.residual = nn.Linear(width // 2, 3)
        nn.init.normal_(self.residual_node.weight, std=0.5)
        self.comparison = None
        if comparison is not None:
            self.add_comparison(**comparison)

    def add_comparison(self, **arguments) -> None:
        """Add a network that verifies the proposals; see its class for the arguments."""
        self.comparison = moved(CandidateComparison(self.n_phases, **arguments), self.nodes.device)
        self.arguments["comparison"] = arguments

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
    def features(self, polar: torch.Tensor) -> torch.Tensor:
        """Features (n, phi_steps, width) of polar patterns (n, channels, n_k, n_phi)."""
        x = self.stem(polar.flatten(1, 2).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (n, phi_steps * n_nodes + 1); the last is "no crystal here"."""
        pooled = torch.cat([features.mean(1), features.amax(1)], dim=-1)
        return torch.cat([self.score(features).flatten(1), self.empty(pooled)], dim=1)

    def forward(self, polar: torch.Tensor) -> torch.Tensor:
        """Logits of polar patterns."""
        return self.logits(self.features(polar))

    def residuals(self, features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Rotation vectors (n, m, 3) at the flat nodes `index` (n, m), in radians."""
        step = torch.div(index, len(self.nodes), rounding_mode="floor")
        h = self.residual_features(features)
        h = h.gather(1, step[..., None].expand(-1, -1, h.shape[-1]))
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
    def propose(self, polar: torch.Tensor, n_best: int = 2) -> OrientationCandidates:
        """Separated modes of the distribution; see :class:`OrientationCandidates`."""
        features = self.features(polar)
        probability = self.logits(features).float().softmax(dim=1)
        crystal = 1 - probability[:, -1]
        p, index = probability[:, :-1].topk(min(_TOP_NODES, probability.shape[1] - 1), dim=1)
        rotations = self.node_rotations(index, self.residuals(features, index))
        phase_id = self.node_phase[index % len(self.nodes)]
        return self.separate_modes(rotations, phase_id, p, crystal, n_best)

    def predict(self, polar: torch.Tensor, n_best: int = 2) -> OrientationCandidates:
        """Propose orientations, and verify them where a comparison is there.

        Parameters
        ----------
        polar : tensor, shape (n, channels, n_k, n_phi)
            Preprocessed patterns.
        n_best : int
            Number of separated orientations to return.

        Returns
        -------
        OrientationCandidates
            Most probable first; where they are verified, the first four are, and further ones
            follow as they were proposed.
        """
        if self.comparison is None:
            return self.propose(polar, n_best)
        proposed = self.propose(polar, max(n_best, N_PROPOSED))
        # Always the same number is compared: answers must not depend on n_best.
        rotations, phases, p = (column[:, :N_PROPOSED] for column in proposed[:3])
        view, log_p = PolarView.of(polar), p.clamp_min(1e-6).log()
        score, rotations = self.comparison.improve(view, rotations, phases, log_p)
        best = score.topk(_N_VERIFIED, dim=1).indices
        at = best[..., None].expand(-1, -1, 4)
        again, better = self.comparison.improve(
            view, rotations.gather(1, at), phases.gather(1, best), log_p.gather(1, best)
        )
        rotations = rotations.scatter(1, at, better)
        # The comparison shares out what the proposals had together: noise stays improbable.  The
        # second look is at the best of the first, and shares out what those had.
        share = score.softmax(dim=1)
        second = again.softmax(dim=1) * share.gather(1, best).sum(1, keepdim=True)
        p = share.scatter(1, best, second) * p.sum(1, keepdim=True)
        # candidates may have met on the way
        found = self.separate_modes(
            rotations, phases, p, proposed.crystal, min(n_best, N_PROPOSED)
        )
        return _append(found, proposed) if n_best > N_PROPOSED else found

    def separate_modes(self, rotations, phase_id, p, crystal, n_best) -> OrientationCandidates:
        """Gather nodes (n, m) of one orientation into modes, and sum their probabilities."""
        n, m = p.shape
        equivalent = rot.multiply(self.operations[phase_id], rotations[:, :, None])
        n_operations = equivalent.shape[2]
        # |<S q_i, q_j>| for all pairs, the largest over S
        product = rot.matmul(equivalent.reshape(n, m * n_operations, 4), rotations.transpose(1, 2))
        product = product.reshape(n, m, n_operations, m)
        same_phase = phase_id[:, :, None] == phase_id[:, None]
        lowest, highest = product.aminmax(dim=2)
        cosine = torch.maximum(highest, -lowest) * same_phase
        together = (cosine > math.cos(_MODE_RADIUS / 2)).to(p)
        results = []
        left = p.clone()
        every = torch.arange(n, device=p.device)
        for _ in range(n_best):
            mass = rot.matmul(left[:, None], together)[:, 0]
            best = mass.argmax(dim=1)
            members = together[every, :, best] * left
            # members written beside the best node: the nearest symmetric copy, same sign
            to_best = product[every, :, :, best]
            closest = to_best.abs().argmax(dim=2, keepdim=True)
            copies = equivalent.gather(2, closest[..., None].expand(-1, -1, 1, 4))[:, :, 0]
            sign = torch.where(to_best.gather(2, closest) < 0, -1.0, 1.0)
            mean = (copies * members[..., None] * sign).sum(1)
            mean = torch.where(
                members.sum(1, keepdim=True) > 0, mean, rotations[every, best]
            )
            results.append(
                (nn.functional.normalize(mean, dim=-1), phase_id[every, best], members.sum(1))
            )
            # what is left over within two radii is a flank of this mode, no other mode
            left = left * (cosine[every, :, best] <= math.cos(_MODE_RADIUS))
        columns = [torch.stack(column, dim=1) for column in zip(*results, strict=True)]
        return OrientationCandidates(*columns, crystal)


def _append(found: OrientationCandidates, proposed: OrientationCandidates):
    """Let the proposals that nobody looked at follow those that were verified."""
    columns = [
        torch.cat([first, later[:, N_PROPOSED:]], dim=1)
        for first, later in zip(found[:3], proposed[:3], strict=True)
    ]
    # places that became empty when candidates met go to the end
    order = (columns[2] <= 0).long().argsort(dim=1, stable=True)
    columns[0] = columns[0].gather(1, order[..., None].expand(-1, -1, 4))
    columns[1:] = (column.gather(1, order) for column in columns[1:])
    return OrientationCandidates(*columns, found.crystal)
