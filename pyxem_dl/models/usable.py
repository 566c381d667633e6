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
    # NaN stays; minus infinity is no small number, but nothing at all
    patterns = torch.where(patterns == -torch.inf, torch.nan, patterns.clamp_min(0))
    seen = patterns.flatten(1)
    if signal_mask is not None:
        mask = signal_mask.to(patterns.device)
        patterns = torch.where(mask, 0.0, patterns)
        seen = seen[:, ~mask.flatten()]
    if not seen.shape[1]:
        return torch.zeros_like(patterns), seen.new_zeros(len(seen), dtype=torch.bool)
    low, high = seen.amin(1), seen.amax(1)  # NaN where there is one
    usable = low.isfinite() & high.isfinite() & (high > low)
    if usable.all():
        return patterns, usable
    return torch.where(usable[:, None, None], patterns, 0.0), usable
