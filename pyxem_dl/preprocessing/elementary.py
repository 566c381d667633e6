"""Roots and logarithms of intensities.

On many CPUs torch takes MKL's functions, which are up to ten times as slow where there are zeros (roots), or always
(``log1p``): longer than all that is computed of the pattern before.
"""

from __future__ import annotations

import torch


def square_root(x: torch.Tensor) -> torch.Tensor:
    """Square root of what is not negative."""
    return x.clamp_min(torch.finfo(x.dtype).tiny).rsqrt_().mul_(x)


def fourth_root(x: torch.Tensor) -> torch.Tensor:
    """Fourth root of what is not negative."""
    return x.rsqrt().rsqrt_()


def log_1p(x: torch.Tensor) -> torch.Tensor:
    """Logarithm of 1 + x for x of about 1 and more; of a small one the last digits are missing."""
    return (x + 1).log_()
