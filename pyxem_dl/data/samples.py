"""A piece of a real scan, and its phase."""

from __future__ import annotations

from pathlib import Path

from pyxem_dl.crystals import load_phases

_DATA = Path(__file__).parent.parent / "_data"


# Nm between two positions of the whole scan
_STEP = 3.03


def mgo_nanocubes(lazy: bool = True, full: bool = False):
    """Load a piece of a real scan: precession diffraction of MgO nanocubes on holey carbon.

    Every third position of a part of the scan in which cubes lie alone and on top of each other, beside carbon film
    and holes.  Spots are 2 to 3 px wide; the patterns have a halo, a ghost disk above the direct beam and a few percent
    of distortion.

    Parameters
    ----------
    lazy : bool
        Read patterns from the file when they are needed.
    full : bool
        The whole scan of 105 x 105 positions, 3.03 nm apart: pyxem's :func:`pyxem.data.mgo_nanocrystals`, which is
        downloaded once, and compared with the MD5 that pyxem records.

    Returns
    -------
    pyxem.signals.ElectronDiffraction2D
        28 x 21 positions (y, x), 9.09 nm apart, of 144 x 144 px with 0.03246 Å⁻¹ per px; uint16, 300 kV.  They are
        ``full.inav[3:64:3, 21:103:3]`` of the whole scan.

    Raises
    ------
    ConnectionError
        If the whole scan is not there and cannot be downloaded; the error names the file, and the folder where to put
        it.
    ValueError
        If the file is another one than pyxem records.

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

    piece = hs.load(_DATA / "mgo_nanocubes.hspy", lazy=lazy or full)
    return _whole_scan(piece, lazy) if full else piece


def _whole_scan(piece, lazy: bool):
    """Scan of which a piece is bundled, with the piece's type, calibration and names."""
    whole = _downloaded().as_signal2D((2, 3))
    if whole.axes_manager.signal_shape != piece.axes_manager.signal_shape:
        raise ValueError(f"pyxem's MgO nanocubes have patterns of {whole.axes_manager.signal_shape} px, not 144 x 144.")
    if whole.data.dtype.kind == "f":  # counts, whatever they are stored as
        whole.data = whole.data.round().clip(0, 65535)
    whole.change_dtype("uint16")
    whole.set_signal_type("electron_diffraction")
    for axis, known in zip(whole.axes_manager.signal_axes, piece.axes_manager.signal_axes, strict=True):
        axis.name, axis.units, axis.scale, axis.offset = known.name, known.units, known.scale, known.offset
    for axis, name in zip(whole.axes_manager.navigation_axes, "xy", strict=True):
        axis.name, axis.units, axis.scale, axis.offset = name, "nm", _STEP, 0.0
    for node in ("Acquisition_instrument", "General.authors", "General.doi", "General.title"):
        whole.metadata.set_item(node, piece.metadata.get_item(node))
    if not lazy:
        whole.compute(show_progressbar=False)
    return whole


def _downloaded():
    """Open the file of pyxem's own collection."""
    import pyxem.data

    try:
        return pyxem.data.mgo_nanocrystals(lazy=True)
    except ValueError as error:
        # "File … must be downloaded from … to your local cache …. Pass `allow_download=True` …"
        where = str(error).partition(" Pass ")[0]
    try:
        return pyxem.data.mgo_nanocrystals(allow_download=True, lazy=True)
    except OSError as error:
        if type(error).__module__.startswith("requests"):
            raise ConnectionError(
                f"{where} Downloading it failed. Without a network, bring the file from another computer into that "
                "folder, or leave full=True out: the piece comes with the package."
            ) from error
        raise


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
