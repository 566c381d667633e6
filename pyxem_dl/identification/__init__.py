"""Which phases are in a scan: evidence of each (:mod:`~pyxem_dl.identification.evidence`), and few that explain all."""

from pyxem_dl.identification.identify import identify_phases
from pyxem_dl.identification.result import Entry, Identified

__all__ = ["Entry", "Identified", "identify_phases"]
