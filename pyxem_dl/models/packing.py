"""Model folders as one file, to be shared."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyxem_dl.crystals.writing import printable
from pyxem_dl.files import check_target
from pyxem_dl.models.folder import (
    CARD,
    CONFIG,
    CRYSTALS,
    PRETRAINED,
    REFERENCE,
    TRAINING_LOG,
    WEIGHTS,
    Model,
    read_model,
)
from pyxem_dl.sharing import pack, unpack

#: What of a folder is packed, in this order
_FILES = (CONFIG, WEIGHTS, REFERENCE, CARD, TRAINING_LOG, CRYSTALS)


@dataclass(frozen=True)
class PackedModel:
    """An archive of a model folder.

    Parameters
    ----------
    path : pathlib.Path
        Of the file.
    sha256 : str
        Its hash, which stands behind its address.
    left_out : tuple of str
        Files of the folder that are no part of a model.
    """

    path: Path
    sha256: str
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = self.path.stat().st_size / 1e6
        left_out = f"\nLeft out: {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"{self.path} ({size:.3g} MB), sha256 {self.sha256}{left_out}\n"
            "Upload it, and give others this line, with its address:\n"
            f'    pyxem_dl.load_model("https://.../{self.path.name}#sha256={self.sha256}")'
        )


def pack_model(folder: str | Path, output: str | Path | None = None, *, overwrite: bool = False) -> PackedModel:
    """Pack a model folder into one file, to be shared.

    Parameters
    ----------
    folder : str or pathlib.Path
        Of the model, or the name of a bundled one.  The model is loaded, and must still reproduce its stored
        predictions.
    output : str or pathlib.Path, optional
        The archive, ``.zip``; by default beside the folder, with its name.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    PackedModel
        With `path` and `sha256`; printed, it says how others load it.  The same folder gives the same bytes,
        wherever and whenever it is packed.

    Raises
    ------
    FileExistsError
        If the file is there and not `overwrite`.
    FileNotFoundError, ValueError
        If the folder is no model, is damaged, lacks a file, or does not reproduce its stored predictions.

    Examples
    --------
    >>> import pyxem_dl
    >>> packed = pyxem_dl.pack_model("my_model")  # doctest: +SKIP
    >>> pyxem_dl.load_model(packed.path)  # doctest: +SKIP
    """
    bundled = PRETRAINED / folder if isinstance(folder, str) and folder.isprintable() else None
    if bundled is not None and bundled.parent == PRETRAINED and (bundled / CONFIG).is_file():
        folder, output = bundled, output or f"{folder}.zip"
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"There is no model folder {str(folder)!r}.")
    output = folder.resolve().with_name(f"{folder.resolve().name}.zip") if output is None else Path(output).expanduser()
    if output.suffix.lower() != ".zip":
        raise ValueError(f"{output} must end in .zip.")
    model = read_model(folder)
    model.verify(folder)
    names = [name for name in _FILES if (folder / name).is_file()]
    check_target(output, overwrite=overwrite, needed=sum((folder / name).stat().st_size for name in names))
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in names and path.name[0] != ".")
    pack(folder, names, output)
    with open(output, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PackedModel(output, sha256, tuple(left_out))


def read_packed(path: Path, name: str | None = None) -> Model:
    """Read a model from an archive; nothing of it is left on the disk.

    Parameters
    ----------
    path : pathlib.Path
        Of the archive.
    name : str, optional
        Of the archive for errors, where `path` does not tell it.

    Raises
    ------
    ValueError
        For an archive that is refused (see :func:`pyxem_dl.sharing.unpack`), or holds no model that can be read.
    OSError
        If it cannot be read, or there is no room to unpack it; the error says where.
    """
    with tempfile.TemporaryDirectory(prefix="pyxem_dl-", ignore_cleanup_errors=True) as folder:
        shown = str(path) if name is None else f"{printable(name)} ({path})"
        try:
            unpack(path, _FILES, Path(folder))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                error.errno,
                f"There is no room to unpack {shown} in {Path(folder).parent}: make some, name another folder by the "
                "environment variable TMPDIR, or unpack it by hand and load the folder",
            ) from error
        try:
            return read_model(Path(folder))
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(folder, shown)) from error
