"""Quartets: sets of simulated patterns with the probe, the potential and the out-of-plane component of each disk."""

from pyxem_dl.quartets.making import make_quartets
from pyxem_dl.quartets.reading import Quartets, open_quartets
from pyxem_dl.quartets.settings import Settings
from pyxem_dl.quartets.truth import Disks, Quartet

__all__ = ["Disks", "Quartet", "Quartets", "Settings", "make_quartets", "open_quartets"]
