"""Scans: a signal in; its patterns in blocks and batches to any device or cluster; results as they come."""

from pyxem_dl.scans.arina import load_arina
from pyxem_dl.scans.bad_pixels import BadPixels, inspect_pixels
from pyxem_dl.scans.beam import Beam, find_beam
from pyxem_dl.scans.job import Job, Partial
from pyxem_dl.scans.keeping import Target
from pyxem_dl.scans.loading import load_scan
from pyxem_dl.scans.options import Computing, Reading
from pyxem_dl.scans.output import ResultStore
from pyxem_dl.scans.positions import Positions
from pyxem_dl.scans.sample import Sample, read_sample
from pyxem_dl.scans.scan import STORED_DRIFT, Scan, find_bad_pixels, make_signal, stored_centers
from pyxem_dl.scans.steps import Collected, Field, Padded, Part, Rows, Step
from pyxem_dl.scans.streaming import stream

__all__ = [
    "BadPixels", "Beam", "Collected", "Computing", "Field", "Job", "Padded", "Part", "Partial", "Positions",
    "Reading", "ResultStore", "Rows", "STORED_DRIFT", "Sample", "Scan", "Step", "Target", "find_bad_pixels",
    "find_beam", "inspect_pixels", "load_arina", "load_scan", "make_signal", "read_sample", "stored_centers",
    "stream",
]  # fmt: skip
