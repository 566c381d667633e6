"""Files of HyperSpy that hold maps as a signal, and in its metadata what belongs to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyxem_dl.files import check_target, claimed, replacing

if TYPE_CHECKING:
    from pyxem_dl.annotations import File

_SUFFIXES = (".hspy", ".zspy")


def check_signal_path(path: File, what: str, *, overwrite: bool = False) -> Path:
    """Path that maps can be written to, or an error: better before than after the work.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the file.
    what : str
        Begins the error, like "Strain is".
    overwrite : bool
        Whether a file that is there may be replaced.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{what} saved as {' or '.join(_SUFFIXES)} (HyperSpy), not as {path.name!r}.")
    return check_target(path, overwrite=overwrite, folder=path.suffix.lower() == ".zspy")


def write_signal(signal, path: Path) -> Path:
    """Write a signal into a checked path: wholly, or not at all."""
    with claimed(path), replacing(path) as new:
        signal.save(new, overwrite=True)
    return path


def read_signal(path: File, node: str, names: list[str], kind: str) -> tuple:
    """Read a signal of maps and the entries of its metadata.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the file.
    node : str
        Of the metadata, which holds the entries.
    names : list of str
        Entries that there must be.
    kind : str
        Class whose ``save`` wrote it, for the error.

    Returns
    -------
    signal, entries
        A HyperSpy signal, and a dict.
    """
    import hyperspy.api as hs

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    signal = hs.load(path)
    there = signal.metadata.get_item(node) if hasattr(signal, "metadata") else None
    entries = {} if there is None else there.as_dictionary()
    if any(name not in entries for name in names):
        raise ValueError(f"{path} holds no maps of `{kind}.save`, but {signal!r}.")
    return signal, entries
