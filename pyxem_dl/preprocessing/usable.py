"""Patterns that are fit for a model."""

from __future__ import annotations

import torch


def usable_patterns(
    patterns: torch.Tensor, signal_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make patterns fit for computing, and tell which of them say anything.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    patterns : tensor, shape (n, rows, columns)
        Not negative, 0 where masked, and all 0 where not usable.
    usable : tensor of bool, shape (n,)
        False for NaN or infinite pixels and for constant patterns, where not masked.
    """
    patterns = patterns.float()
    lowest = highest = patterns
    if signal_mask is not None:
        mask = signal_mask.to(patterns.device)
        # what is masked is neither the lowest nor the highest; a mask over all leaves +inf and -inf
        lowest, highest = (torch.where(mask, limit, patterns) for limit in (torch.inf, -torch.inf))
        patterns = torch.where(mask, 0.0, patterns)
    # NaN where there is one; and minus infinity is no small number, but nothing at all
    low, high = lowest.flatten(1).amin(1), highest.flatten(1).amax(1)
    usable = low.isfinite() & high.isfinite() & (high.clamp_min(0) > low.clamp_min(0))
    patterns = patterns.clamp_min(0)
    # nobody waits for a device to look; on a CPU a look costs less than another copy of the patterns
    if usable.device.type == "cpu" and bool(usable.all()):
        return patterns, usable
    return torch.where(usable[:, None, None], patterns, 0.0), usable
