"""Scans: the signal in, and what a sample of its patterns says of the detector and of the direct beam."""

from pyxem_dl.scans.bad_pixels import BadPixels, inspect_pixels
from pyxem_dl.scans.beam import Beam, find_beam
from pyxem_dl.scans.sample import Sample, read_sample
from pyxem_dl.scans.scan import Scan, find_bad_pixels, make_signal

__all__ = [
    "BadPixels", "Beam", "Sample", "Scan", "find_bad_pixels", "find_beam", "inspect_pixels", "make_signal",
    "read_sample",
]  # fmt: skip
