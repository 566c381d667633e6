"""Types that signatures name, for editors and type checkers; nothing of this is imported while the package runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set as AbstractSet
    from pathlib import Path
    from typing import Literal, TypeAlias

    import numpy as np
    from hyperspy.roi import BaseROI
    from hyperspy.signals import BaseSignal, Signal2D
    from orix.crystal_map import CrystalMap, Phase
    from orix.quaternion import Rotation
    from pyxem.signals import BeamShift, Diffraction2D, DiffractionVectors

    File: TypeAlias = str | Path
    #: What crystals are given as: phases, or CIF files
    Phases: TypeAlias = Phase | File | Iterable[Phase | File]
    #: Orientations, lab to crystal: quaternions of the shape (..., 4)
    Rotations: TypeAlias = Rotation | np.ndarray
    #: What crystals are told apart by: formulas, chemical systems, or the crystals themselves
    Unwanted: TypeAlias = Phase | File | AbstractSet[str] | Iterable[Phase | File | AbstractSet[str]]
    #: Calibrated patterns, in memory or lazy
    Patterns: TypeAlias = Diffraction2D
    Vectors: TypeAlias = DiffractionVectors
    #: A calibrated image, or a series of them, in memory or lazy
    Image: TypeAlias = Signal2D
    #: Regions of an image, as a signal of whole numbers
    Labels: TypeAlias = Signal2D
    #: Where the direct beam is: searched for, (row, column) in px, one for each pattern, or pyxem's
    Center: TypeAlias = Literal["auto"] | tuple[float, float] | np.ndarray | BeamShift
    #: The probe as an image, or as a signal of vacuum patterns
    ProbeImage: TypeAlias = np.ndarray | BaseSignal
    #: Crystal maps, or their files
    Map: TypeAlias = CrystalMap | File
    Maps: TypeAlias = Map | Mapping[str, Map]
    #: Pairs of a scan and its labels, each itself or its file
    LabelledScans: TypeAlias = Sequence[tuple[Diffraction2D | File, Map]]
    #: What strain is measured from: a region of the scan, a basis, or a crystal and its zone axis
    StrainReference: TypeAlias = np.ndarray | slice | tuple[slice, ...] | BaseROI | tuple[Phase, Sequence[int]]
