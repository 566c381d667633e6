"""Networks for atomic-resolution images."""

from pyxem_dl.networks.images.spectra import SpectrumGrid
from pyxem_dl.networks.images.structures import StructureNetwork

__all__ = ["SpectrumGrid", "StructureNetwork"]
