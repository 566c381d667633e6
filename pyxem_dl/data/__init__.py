"""Sample data: a piece of a real scan, the phases of the bundled models, and simulated scans with known answers.

Everything here comes with the package; only the whole scan, ``mgo_nanocubes(full=True)``, is downloaded.
"""

from pyxem_dl.data.fronts import PhaseFieldSeries, phase_field_series
from pyxem_dl.data.grains import AtomicGrains, atomic_grains, metal_crystals, metals
from pyxem_dl.data.multilayer import LAYERS, StrainedMultilayer, strained_multilayer
from pyxem_dl.data.phases import aluminium, lithium_nickel_oxide
from pyxem_dl.data.polycrystal import Polycrystal, polycrystal
from pyxem_dl.data.samples import mgo_nanocubes, mgo_phase

__all__ = [
    "AtomicGrains", "LAYERS", "PhaseFieldSeries", "Polycrystal", "StrainedMultilayer", "aluminium", "atomic_grains",
    "lithium_nickel_oxide", "metal_crystals", "metals", "mgo_nanocubes", "mgo_phase", "phase_field_series",
    "polycrystal", "strained_multilayer",
]  # fmt: skip
