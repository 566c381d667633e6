"""Types that signatures name, for editors and type checkers; nothing of this is imported while the package runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    import numpy as np
    from orix.crystal_map import CrystalMap, Phase
    from pyxem.signals import Diffraction2D, DiffractionVectors

    File: TypeAlias = str | Path
    #: What crystals are given as: phases, or CIF files
    Phases: TypeAlias = Phase | File | Iterable[Phase | File]
    #: Pairs of a scan and its labels, each itself or its file
    LabelledScans: TypeAlias = Sequence[tuple[Diffraction2D | File, CrystalMap | File]]
    #: True where something is left out
    Mask: TypeAlias = np.ndarray
    Vectors: TypeAlias = DiffractionVectors
