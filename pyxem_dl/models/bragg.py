"""The disk detector: from patterns and a probe to Bragg disks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from pyxem_dl.devices import computing, in_micro_batches, padded
from pyxem_dl.messages import warn
from pyxem_dl.models.folder import Model
from pyxem_dl.networks.fcunet import Disks
from pyxem_dl.patterns.patches import nearest_pixels
from pyxem_dl.patterns.views import Optics
from pyxem_dl.preprocessing import rescale
from pyxem_dl.preprocessing.usable import usable_patterns

# Patterns that go through the network at once
_MICRO_BATCH = {"cpu": 16, "other": 64}


@dataclass
class BraggModel(Model):
    """A disk detector with its standard disk radius and its limits.

    Parameters
    ----------
    network_name : str
        By which `pyxem_dl.networks.build_network` knows it.
    network : torch.nn.Module
        With ``arguments``, ``radius`` (px) and ``predict(patterns, probe, max_disks)``.
    domain : dict
        What the model was trained for: ``disk_radius`` (smallest and largest, in detector px).
    thresholds : dict
        ``confidence`` above which a disk is reported.
    name, description : str
        A name, and a line on what the model is for.
    training : dict
        The training's configuration.
    provenance : dict
        How the training went, as that of an :class:`~pyxem_dl.models.OrientationModel`.
    precision : {"auto", "float32", "bfloat16"}
        Of the network's convolutions; the correlation with the probe is always float32.
    """

    network_name: str
    network: torch.nn.Module
    domain: dict = field(default_factory=dict)
    thresholds: dict = field(default_factory=lambda: {"confidence": 0.3})
    name: str = "unnamed"
    description: str = ""
    training: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    precision: str = "auto"

    format = "pyxem_dl disk detector"
    inputs = "patterns"
    threshold_names = ("confidence",)
    #: Patterns that a core computes at once
    micro_batch = _MICRO_BATCH["cpu"]

    def __repr__(self) -> str:
        low, high = self.domain.get("disk_radius") or (0, float("inf"))
        return f"BraggModel {self.name!r} (any crystal; disks of {low:g} to {high:g} px; {self.network_name})"

    def predict_batch(
        self,
        patterns: torch.Tensor,
        probe: torch.Tensor,
        radius: float,
        *,
        signal_mask: torch.Tensor | None = None,
        filled: bool = False,
        max_disks: int = 128,
        n_samples: int = 0,
        least: float = 0.03,
        center: torch.Tensor | None = None,
        half_range: float = math.nan,
    ) -> Disks:
        """Find the disks of a batch of patterns.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Counts.
        probe : tensor, shape (size, size)
            The undiffracted disk, rescaled to the network's radius, its centre at
            (size // 2, size // 2).
        radius : float
            Of the disks in the patterns, in px.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded.
        filled : bool
            The masked pixels hold what the network is to see there; else they are 0.
        max_disks : int
            Largest number of disks per pattern.
        n_samples : int
            Predictions drawn with dropout (Monte-Carlo dropout), whose mean is given and whose variance
            is known; 0 predicts once, without.
        least : float
            What has less confidence is not read at full resolution.
        center : tensor, shape (n, 2) or (2,), optional
            Of the direct beam in px, (row, column); by default the middle of the patterns.
        half_range : float
            From a disk's centre to its edge the excitation error changes by so much (Å⁻¹) per px of distance from the
            direct beam; NaN if that is not known: then excitation errors are not known either.

        Returns
        -------
        Disks
            Positions, their errors and variances in px of the patterns.  Patterns that nobody can read
            (NaN or infinite pixels, constant) have none.
        """
        device = self.device
        mask = None if signal_mask is None else signal_mask.to(device)
        works = None if mask is None else (~mask)[None].float()
        size = _MICRO_BATCH["cpu" if device.type == "cpu" else "other"]
        probe = probe.to(device)
        if center is None:
            center = torch.stack([torch.full((), float(n // 2), device=device) for n in patterns.shape[1:]])
        centers = center.float().expand(len(patterns), 2)

        def predict(micro_batch, center):
            seen, usable = usable_patterns(micro_batch, mask)
            looked_at = seen
            if filled:
                looked_at = torch.where(mask & usable[:, None, None], micro_batch.clamp_min(0), seen)
            found = self._find(looked_at, probe, radius, size, max_disks, n_samples)
            optics = Optics(probe[None], self.network.radius, radius, center, half_range)
            with computing(device, self.precision):
                found = self.network.read(seen, found, optics, works, n_samples, least)
            return self._reported(found, usable, mask)

        return Disks(*in_micro_batches(predict, size, device, patterns, centers))

    def _find(self, patterns, probe, radius: float, size: int, max_disks: int, n_samples: int) -> Disks:
        """Find disks with the U-Net; all in px of the patterns."""
        factor = self.network.radius / radius
        n, patterns = len(patterns), padded(patterns, size)
        with computing(self.device):
            rescaled = rescale(patterns, factor)
        with computing(self.device, self.precision):
            found = self.network.predict(rescaled, probe, max_disks, n_samples)
        found = Disks(*(x[:n].float() for x in found))
        return found._replace(
            row=(found.row + 0.5) / factor - 0.5, column=(found.column + 0.5) / factor - 0.5,
            position_error=found.position_error / factor,
            position_variance=found.position_variance / factor**2,
        )  # fmt: skip

    def _reported(self, found: Disks, usable, mask) -> Disks:
        """Take the confidence from what cannot be one, or lies behind the mask."""
        row, column = found.row, found.column
        good = usable[:, None] & row.isfinite() & column.isfinite() & found.intensity.isfinite()
        if mask is not None:
            good &= ~nearest_pixels(mask[None], torch.stack([row, column], dim=-1))
        return found._replace(confidence=found.confidence * good)

    def check_domain(self, radius: float) -> None:
        """Warn, with both numbers, of disks that the model was not trained for.

        Parameters
        ----------
        radius : float
            Of the disks, in px.
        """
        low, high = self.domain.get("disk_radius") or (0, float("inf"))
        if not low <= radius <= high:
            warn(
                f"The disks have a radius of {radius:.3g} px, but the model {self.name!r} was trained "
                f"for {low:g} to {high:g} px. If they are larger, bin the patterns; if they are smaller, they are "
                "spots, for which peak finding is enough."
            )

    # ---------------------------------------------------------------- the folder
    def _own_config(self) -> dict:
        return {"preprocessing": {"name": "disk radius", "arguments": {"radius": self.network.radius}}}

    @classmethod
    def _from_config(cls, network, config: dict, **common) -> BraggModel:
        return cls(network=network, **common)

    def _default_reference(self) -> torch.Tensor:
        at = torch.arange(64.0)
        disks = [
            torch.hypot(at[:, None] - row, at[None] - column) < self.network.radius
            for row, column in ((32, 32), (14.5, 40), (45, 18))
        ]
        image = 200.0 * disks[0] + 40.0 * disks[1] + 8.0 * disks[2]
        return torch.poisson(image.expand(2, -1, -1), torch.Generator().manual_seed(0))

    def _predictions(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        at = torch.arange(33.0, device=inputs.device) - 16
        probe = (torch.hypot(at[:, None], at[None]) < self.network.radius).float()
        found = self.network.predict(inputs, probe / probe.sum(), 4)
        radius = self.network.radius
        center = torch.full((len(inputs), 2), 32.0, device=inputs.device)
        found = self.network.read(inputs, found, Optics(probe[None], radius, radius, center, 1e-4))
        # what is not known of a disk is compared as 0
        return {name: column.nan_to_num() for name, column in found._asdict().items()}

    def _differences(self, now: dict, stored: dict) -> str:
        confidence = float((now["confidence"] - stored["confidence"]).abs().max())
        clear = stored["confidence"] > 0.5
        moved = float(((now["row"] - stored["row"]).abs() * clear).max())
        if confidence > 1e-3 or moved > 0.02:
            return f"confidences differ by up to {confidence:.2g} (allowed 0.001), places by {moved:.2g} px (0.02 px)"
        return ""

    def _minimal_card(self) -> str:
        domain = "\n".join(f"- {key}: {value}" for key, value in self.domain.items())
        return f"# {self.name}\n\n{self.description or 'A disk detector of pyxem_dl.'}\n\n## Trained for\n{domain}\n"
