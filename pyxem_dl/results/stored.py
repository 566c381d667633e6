"""Results from the stores to which they were written as they came."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyxem_dl.messages import warn
from pyxem_dl.records import KEY, from_entries, provenance, with_record
from pyxem_dl.results.assembly import MatchedMap, PredictedMap, RefinedMap
from pyxem_dl.results.label_files import read_map
from pyxem_dl.results.map_files import save_map
from pyxem_dl.results.maps import as_predicted
from pyxem_dl.results.structures import StructureAssembly, StructureMaps
from pyxem_dl.results.vector_files import save_vectors
from pyxem_dl.results.vectors import VectorsAssembly
from pyxem_dl.scans import ResultStore

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap
    from pyxem.signals import DiffractionVectors

_ASSEMBLIES = {kind.kind: kind for kind in (PredictedMap, MatchedMap, RefinedMap, StructureAssembly, VectorsAssembly)}


def open_result(path: str | Path) -> CrystalMap | DiffractionVectors:
    """Open the result of a call with ``output="....zarr"``, or a crystal map of an ``.h5`` file.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the store; of ``<file>.partial`` for what is done of a file that is not whole; or of an ``.h5`` or ``.hdf5``
        file of :func:`~pyxem_dl.results.save_map`, whose map then keeps its :func:`~pyxem_dl.provenance`.

    Returns
    -------
    orix.crystal_map.CrystalMap, a sequence of them, or pyxem.signals.DiffractionVectors
        What the call returned; or as much of it as is done.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        For what is no store, is damaged, or was written by a later version of pyxem_dl.

    Warns
    -----
    UserWarning
        If the work is not finished, with both numbers; for blocks that are damaged.
    """
    path = Path(path)
    if path.suffix.lower() in (".h5", ".hdf5") and path.is_file():
        return with_record(as_predicted(read_map(path)), provenance(path))
    store = ResultStore.open(path)
    contents = store.contents
    if contents.kind not in _ASSEMBLIES:
        raise ValueError(f"{path} holds {contents.kind!r}, which this version of pyxem_dl does not know.")
    try:
        assembly = _ASSEMBLIES[contents.kind].from_dict(contents.about)
        result = assembly(store.collected)
    except Exception as error:  # whatever the hosts say of what no call of ours has written
        raise ValueError(f"{path} is damaged: its description cannot be used ({error!r}).") from error
    with_record(result, from_entries(contents.about.get(KEY)))
    n, done = contents.n_wanted, store.collected.n_done
    if done < n:
        warn(f"{done} of {n} patterns are done in {path}: the rest is not in the data. Repeat the call to finish it.")
    return result


def convert_result(path: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write a stored result into a file of another kind.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the store.
    output : str or pathlib.Path
        ``.h5``, ``.ang`` or ``.ctf`` for orientations; ``.hspy``, ``.zspy``, ``.h5``, ``.hdf5`` or ``.emd`` for
        vectors.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    pathlib.Path
        `output`.
    """
    result = open_result(path)
    if isinstance(result, StructureMaps):
        raise ValueError(f"{path} holds {len(result)} maps: save each by itself, `save_map(output, result[0])`.")
    save = save_map if hasattr(result, "rotations") else save_vectors
    return save(output, result, overwrite=overwrite)
