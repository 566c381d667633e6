"""Scans: the signal in, and what a sample of its patterns says of the detector and of the direct beam."""

from pyxem_dl.scans.scan import Scan, make_signal

__all__ = ["Scan", "make_signal"]
