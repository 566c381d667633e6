"""From detector pixels to the model's frame, whatever the detector: polar for our own network, square for others.

Simulated, labelled and measured patterns all pass through the same object, in training and in prediction, and its
numbers travel in the model's ``config.json``.
"""

from pyxem_dl.preprocessing.cartesian import CartesianPreprocessing
from pyxem_dl.preprocessing.images import (
    as_float32,
    check_patterns,
    counts_per_electron,
    find_direct_beam,
    in_electrons,
    rescale,
    shift_to_center,
)
from pyxem_dl.preprocessing.polar import PolarPreprocessing
from pyxem_dl.preprocessing.usable import usable_patterns

#: By the name in a model's ``config.json``
PREPROCESSINGS = {"polar": PolarPreprocessing, "cartesian": CartesianPreprocessing}

__all__ = [
    "PREPROCESSINGS", "CartesianPreprocessing", "PolarPreprocessing", "as_float32", "check_patterns",
    "counts_per_electron", "find_direct_beam", "in_electrons", "rescale", "shift_to_center", "usable_patterns",
]  # fmt: skip
