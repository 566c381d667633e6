"""A piece of a real scan, and its phase."""

from __future__ import annotations

from pathlib import Path

from pyxem_dl.crystals import load_phases

_DATA = Path(__file__).parent.parent / "_data"


def mgo_nanocubes(lazy: bool = True):
    """Load a piece of a real scan: precession diffraction of MgO nanocubes on holey carbon.

    Every third position of a part of the scan in which cubes lie alone and on top of each other, beside carbon film
    and holes.  Spots are 2 to 3 px wide; the patterns have a halo, a ghost disk above the direct beam and a few percent
    of distortion.

    Parameters
    ----------
    lazy : bool
        Read patterns from the file when they are needed.

    Returns
    -------
    pyxem.signals.ElectronDiffraction2D
        28 x 21 positions (y, x), 9.09 nm apart, of 144 x 144 px with 0.03246 Å⁻¹ per px; uint16, 300 kV.

    Notes
    -----
    Cut from ``mgo_nano.zspy`` by Tina Bergh, NTNU (Zenodo record 15490547, doi 10.5281/zenodo.15490547), under
    CC-BY-4.0; the values are the original's, stored as integers.  The experiment is described in J. Microsc. 279, 202
    (2020), doi 10.1111/jmi.12850.

    Examples
    --------
    >>> import pyxem_dl
    >>> pyxem_dl.data.mgo_nanocubes()
    <LazyElectronDiffraction2D, title: MgO nanocubes, dimensions: (21, 28|144, 144)>
    """
    import hyperspy.api as hs

    return hs.load(_DATA / "mgo_nanocubes.hspy", lazy=lazy)


def mgo_phase():
    """MgO (periclase) from the bundled ``MgO.cif``: Fm-3m, a = 4.217 Å, COD 1000053, public domain.

    Returns
    -------
    orix.crystal_map.Phase
        The phase of :func:`mgo_nanocubes`.
    """
    (phase,) = load_phases(_DATA / "MgO.cif")
    phase.name = "MgO"
    return phase
