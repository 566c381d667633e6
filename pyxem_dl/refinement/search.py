"""Where in tilt and thickness a fit should begin: a net over both, and steps to where minima lie between its points."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.refinement.likelihood import Seen
from pyxem_dl.refinement.waves import Pool, intensities, jacobian

# The least step of tilts in degrees, how far they go, and the step of thickness in Å
_TILT_STEP, _TILT_REACH, THICKNESS_STEP = 0.09, 0.63, 10.0
# Beams that are compared here
_COMPARED = 20
# Each so many thicknesses tell how much intensities change from point to point of the net
_SPARSE = 4
# Points of the net that are followed by a step, and the length that a step should have, of the net's
_PLACES, _WITHIN = 384, 0.4
# Distance of two starts, in steps of the tilt and in Å
_APART, _APART_THICKNESS = 0.8, 25.0
_AROUND = ((1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1))


class Optics(NamedTuple):
    """Directions of the incident beam.

    ``disk``: radius of the cone in radians; ``precession (m, 2)``: tilts of the crystal in radians that stand for the
    directions of a precessing beam, one (0, 0) where it stands still.
    """

    disk: float
    precession: torch.Tensor

    @classmethod
    def of(cls, disk: float, precession_angle: float, n_azimuths: int, device: torch.device | str = "cpu") -> Optics:
        """With a precession angle in radians, on a device."""
        if not precession_angle:
            return cls(disk, torch.zeros(1, 2, device=device))
        angle = torch.arange(n_azimuths, device=device) * (2 * math.pi / n_azimuths)
        return cls(disk, precession_angle * torch.stack([angle.cos(), angle.sin()], dim=1))

    def cone(self, n_directions: int) -> torch.Tensor:
        """Tilts (m, 2) that stand for a cone of incident directions; their second moment is that of the disk."""
        middle = torch.zeros(1, 2, device=self.precession.device)
        if n_directions == 1:
            return middle
        with_middle = n_directions > 4
        n_ring = n_directions - with_middle
        out = self.disk * math.sqrt(n_directions / (2 * n_ring))
        angle = torch.arange(n_ring, device=middle.device) * (2 * math.pi / n_ring)
        ring = out * torch.stack([angle.cos(), angle.sin()], dim=1)
        return torch.cat([middle, ring]) if with_middle else ring

    def seen(self, pool: Pool, tilt, thickness, cone: torch.Tensor, n_strong: int, wanted: torch.Tensor):
        """Compute what each direction of a cone (d, 2) makes: intensities and derivatives (n, m, d, wanted, 4).

        Of tilts (n, m, 2) and thicknesses (n, m), as :func:`~pyxem_dl.refinement.waves.jacobian` gives them; means over
        the directions of a precessing beam.
        """
        precession = self.precession.to(tilt)
        shape = thickness.shape[1] * len(precession), len(cone)
        every = (precession[:, None] + cone).flatten(0, 1)
        error = pool.turned((tilt[:, :, None] + every).flatten(1, 2)).unflatten(1, shape)
        each = jacobian(pool, error, thickness.repeat_interleave(len(precession), 1), n_strong, wanted)
        return each.unflatten(1, (-1, len(precession))).mean(2)


class Net(NamedTuple):
    """A hexagonal net.

    ``tilts (m, 2)`` in radians; ``ring (m, 6)``: the neighbours of each, m where there is none; ``around (6, 2)``:
    where these lie; ``step`` in radians.
    """

    tilts: torch.Tensor
    ring: torch.Tensor
    around: torch.Tensor
    step: float

    def to(self, device) -> Net:
        """Bring it to a device."""
        return Net(*(x.to(device) for x in self[:3]), self.step)

    @classmethod
    def of(cls, disk: float, step: float = _TILT_STEP, reach: float = _TILT_REACH) -> Net:
        """For disks of so many radians; with a step and a reach in degrees."""
        # from points that are nearer than this, no mean over a disk could be made
        step, reach = max(math.radians(step), disk / math.sqrt(2)), math.radians(reach)
        n = int(1.2 * reach / step) + 2
        i, j = (x.flatten() for x in torch.meshgrid(*2 * [torch.arange(-n, n + 1)], indexing="ij"))
        points = step * torch.stack([i + j / 2, j * math.sqrt(3) / 2], dim=-1).double()
        distance = points.norm(dim=1)
        order = distance.argsort(stable=True)
        order = order[distance[order] <= reach * 1.0001]
        number = torch.full((2 * n + 3, 2 * n + 3), len(order))
        i, j = i[order] + n + 1, j[order] + n + 1
        number[i, j] = torch.arange(len(order))
        ring = torch.stack([number[i + a, j + b] for a, b in _AROUND], dim=1)
        around = torch.tensor([[a + b / 2, b * math.sqrt(3) / 2] for a, b in _AROUND])
        return cls(points[order].float(), ring, around.float() * step, step)


def search(
    net: Net, pool: Pool, seen: Seen, thickness: torch.Tensor, optics: Optics, expected: float, n_starts: int,
    n_strong: int, apart: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Find starts.

    Parameters
    ----------
    net : Net
        Of tilts.
    pool : Pool
        Beams of n patterns.
    seen : Seen
        What they hold.
    thickness : tensor, shape (m,)
        Of the net, equally spaced, in Å.
    optics : Optics
        Directions of the incident beam.
    expected : float
        Standard deviation of tilts in radians.
    n_starts : int
        How many.
    n_strong : int
        Beams that scatter into each other.
    apart : float, optional
        Radians between the tilts of any two starts; by default they may differ in thickness alone.

    Returns
    -------
    tensor, shape (n, starts, 2)
        Tilts in radians.
    tensor, shape (n, starts)
        Thicknesses in Å.
    """
    seen = seen.first(_COMPARED)
    around = optics.precession.to(net.tilts)
    points = sum(
        intensities(pool, pool.turned(net.tilts + tilt), thickness, n_strong, seen.beams) for tilt in around
    ) / len(around)
    model = _disks(points, net, seen, optics.disk)
    complete = (net.ring < len(net.tilts)).all(1)
    ring = net.ring.clamp_max(len(net.tilts) - 1)
    few = model[:, :, ::_SPARSE]
    change = sum((few[:, ring[:, i]] - few).square().mean(2) for i in range(3)) / 3
    along = (model[:, :, 1::_SPARSE] - few[:, :, : len(thickness[1::_SPARSE])]).square().mean(2)
    fit = seen.fit(model, (0.15 * change + 0.15 * along)[:, :, None])
    cost = fit.cost + ((net.tilts.norm(dim=1) / expected) ** 2)[:, None]
    cost = torch.where(complete[:, None], cost, math.inf)
    cost[..., 0] = cost[..., -1] = math.inf
    least, places = cost.flatten(1).topk(min(_PLACES, cost[0].numel()), dim=1, largest=False)
    tilt, depth, cost = _stepped(net, ring, seen, model, places, thickness, expected)
    # a small net has fewer places that lie between others
    cost = torch.where(least.isfinite(), cost, math.inf)
    if apart is None:
        return _separated(tilt, depth, cost, n_starts, _APART * net.step, _APART_THICKNESS)
    return _separated(tilt, depth, cost, n_starts, apart, math.inf)


def _disks(points: torch.Tensor, net: Net, seen: Seen, disk: float) -> torch.Tensor:
    """Means over disks, and moments, (n, m, thicknesses, 2 beams), of points of a net: each point and those around."""
    share = disk**2 / (12 * net.step**2)  # of each point around, so that the second moment is a disk's
    padded = torch.cat([points, points.mean(1, keepdim=True)], dim=1)
    model = torch.cat([(1 - 6 * share) * points, torch.zeros_like(points)], dim=-1)
    mean, moment = model.chunk(2, dim=-1)
    outward = seen.outward(net.around / disk)
    for i in range(6):
        other = padded[:, net.ring[:, i]]
        mean.add_(other, alpha=share)
        moment.addcmul_(other, (share * outward[:, i])[:, None, None])
    return model


def _stepped(net: Net, ring, seen: Seen, model, places, thickness, expected: float):
    """Tilts, thicknesses and costs (n, places) after a step to where minima should be.

    Valleys are narrower than the net is wide; how intensities change from point to point tells what lies between.
    """
    rows, n_thicknesses = torch.arange(len(places), device=places.device)[:, None], len(thickness)
    tilt, depth = places // n_thicknesses, places % n_thicknesses
    h = thickness[1] - thickness[0]
    depth = depth.clamp(1, n_thicknesses - 2)
    here, below, above = (model[rows, tilt, depth + i] for i in (0, -1, 1))
    around = torch.stack([model[rows, ring[tilt, i], depth] for i in range(6)])
    turned = torch.einsum("i...,ij->...j", around, net.around) / (3 * net.step**2)
    by = torch.cat([turned, ((above - below) / (2 * h))[..., None]], dim=-1)
    # what is not on a straight line from point to point
    curved = 0.25 * ((above + below) / 2 - here) ** 2 + 0.5 * (around.mean(0) - here) ** 2
    fit = seen.fit(here, curved)
    by = torch.cat([fit.scale[..., None, None] * by, here[..., None]], dim=-1)
    weighted = by * (seen.used[:, None] / fit.variance)[..., None]
    normal, slope = weighted.mT @ by, (weighted * fit.residual[..., None]).sum(-2)
    reach = _WITHIN * torch.stack([torch.full_like(h, net.step), torch.full_like(h, net.step), h])
    pull = torch.cat([reach**-2, reach.new_zeros(1)])
    prior = torch.nn.functional.pad(net.tilts[tilt] / expected**2, (0, 2))
    step = solved(normal + torch.diag(pull), slope - prior)
    step = step / (step[..., :3].abs() / (2 * reach)).amax(-1, keepdim=True).clamp_min(1)
    won = 2 * (step * slope).sum(-1) - (step * (normal @ step[..., None])[..., 0]).sum(-1)
    tilts = net.tilts[tilt] + step[..., :2]
    return tilts, thickness[depth] + step[..., 2], fit.cost - won + (tilts.norm(dim=-1) / expected) ** 2


def solved(normal: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Solution of normal equations, whose unknowns may be of very different sizes."""
    scaled, size = _scaled(normal)
    return (torch.linalg.solve(scaled, (slope / size).double()) / size).to(slope)


def variances(normal: torch.Tensor) -> torch.Tensor:
    """Variances of the unknowns of normal equations."""
    scaled, size = _scaled(normal)
    return (torch.diagonal(torch.linalg.inv(scaled), dim1=-2, dim2=-1) / size**2).clamp_min(0)


def _scaled(normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring the diagonal of normal equations to 1, in double precision; gives the sizes that were taken out, too."""
    size = torch.diagonal(normal, dim1=-2, dim2=-1).clamp_min(1e-30).sqrt()
    scaled = (normal / (size[..., None] * size[..., None, :])).double()
    return scaled + 1e-9 * torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device), size


def _separated(tilt, thickness, cost, n_starts: int, apart: float, apart_thickness: float):
    """Choose the places of least cost that are apart from one another."""
    rows, chosen = torch.arange(len(cost), device=cost.device), []
    for _ in range(n_starts):
        place = cost.argmin(1)
        chosen.append(place)
        near = (tilt - tilt[rows, place][:, None]).norm(dim=2) < apart
        alike = (thickness - thickness[rows, place][:, None]).abs() < apart_thickness
        cost = torch.where(near & alike, math.inf, cost)
    chosen = torch.stack(chosen, 1)
    return tilt.gather(1, chosen[..., None].expand(-1, -1, 2)), thickness.gather(1, chosen)
