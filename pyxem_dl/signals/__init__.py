"""What HyperSpy's and pyxem's signals gain: thin methods, each of which is a function of its own, too.

`pyxem_dl._autoload` sets the functions of `METHODS` on their classes. To add a method, write a function in a module
of this room that delegates to where the work is done, and add its line to the table. Nothing here imports torch or
pyxem: a method imports what it needs when it is called.
"""

from pyxem_dl.signals.calibration import find_calibration
from pyxem_dl.signals.diffraction import (
    iter_predict_orientation,
    match_disks,
    match_templates,
    predict_bragg_vectors,
    predict_orientation,
)
from pyxem_dl.signals.identification import identify_phases
from pyxem_dl.signals.images import (
    classify_structure,
    fit_phase_field,
    get_symmetry_descriptors,
    map_lattice,
    segment_by_symmetry,
)
from pyxem_dl.signals.vectors import strain_map, tilt_map
from pyxem_dl.signals.viewer import explore

#: Module and class, and the function that becomes a method of that class and of all that inherit from it
METHODS = (
    ("hyperspy._signals.signal2d", "Signal2D", explore),
    ("hyperspy._signals.signal2d", "Signal2D", segment_by_symmetry),
    ("hyperspy._signals.signal2d", "Signal2D", get_symmetry_descriptors),
    ("hyperspy._signals.signal2d", "Signal2D", classify_structure),
    ("hyperspy._signals.signal2d", "Signal2D", fit_phase_field),
    ("hyperspy._signals.signal2d", "Signal2D", map_lattice),
    ("pyxem.signals.diffraction2d", "Diffraction2D", predict_orientation),
    ("pyxem.signals.diffraction2d", "Diffraction2D", iter_predict_orientation),
    ("pyxem.signals.diffraction2d", "Diffraction2D", find_calibration),
    ("pyxem.signals.diffraction2d", "Diffraction2D", identify_phases),
    ("pyxem.signals.diffraction2d", "Diffraction2D", match_templates),
    ("pyxem.signals.diffraction2d", "Diffraction2D", match_disks),
    ("pyxem.signals.diffraction2d", "Diffraction2D", predict_bragg_vectors),
    ("pyxem.signals.diffraction_vectors", "DiffractionVectors", match_templates),
    ("pyxem.signals.diffraction_vectors", "DiffractionVectors", strain_map),
    ("pyxem.signals.diffraction_vectors", "DiffractionVectors", tilt_map),
)
