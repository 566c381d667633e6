"""Make a set of quartets, shard by shard; whatever ends it, the same call goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.checks import flag, whole_number
from pyxem_dl.files import check_target, claimed
from pyxem_dl.messages import say, warn
from pyxem_dl.progress import progressbar
from pyxem_dl.quartets.engines import Simulated, make_engine
from pyxem_dl.quartets.manifest import MOST_QUARTETS, Manifest, largest_shard, read_crystals
from pyxem_dl.quartets.reading import Quartets, open_quartets
from pyxem_dl.quartets.settings import Drawn, Settings, draw
from pyxem_dl.quartets.store import Store, read_manifest, remove

if TYPE_CHECKING:
    from pyxem_dl.annotations import File, Phases

#: Quartets in a shard: some seconds of work of a core, with each engine
_SHARD = {"many-beam": 64, "multislice": 16}
# Bytes of a quartet's pixel in the file, on average
_BYTES_PER_PIXEL = 1.5
# By how much a pattern may differ, relative to its brightest pixel, between computers and releases
_SAME = 1e-3


def make_quartets(
    phases: Phases, output: File, *, n: int, thickness: float | tuple[float, float] = (20.0, 1000.0),
    tilt: float | tuple[float, float] = (0.0, 2.0), orientations: str = "zone-axes",
    beam_energy: float | tuple[float, float] = 200.0, semi_angle: float | tuple[float, float] = (1.0, 4.0),
    pixels: int = 256, reciprocal_radius: float = 1.5, engine: str = "many-beam", seed: int = 0,
    debye_waller: float = 0.5, minimum_intensity: float = 1e-6, shard: int | None = None, threads: int | None = None,
    overwrite: bool = False, show_progressbar: bool | None = None,
) -> Quartets:  # fmt: skip
    """Simulate a set of quartets: probe, pattern, potential and out-of-plane component, with the tables behind them.

    It is written while it is made.  Interrupted, killed, or stopped by a full disk, the same call goes on; with a
    larger `n` it makes more.  Quartet i is the same whatever `n`, the shards, the threads and the interruptions.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        Crystals, which are shown equally often.  Those of :func:`pyxem_dl.structures` bring where they come from.
    output : str or pathlib.Path
        Of the set, a folder that ends with ``.zarr``.
    n : int
        Quartets.
    thickness : float or tuple of float
        Of the crystals in Angstrom, 1 to 5000; a range is drawn from evenly in the logarithm.
    tilt : float or tuple of float
        Of the crystals away from the zone axis in degrees; a range is drawn from evenly.  All directions are as likely.
    orientations : str
        ``"zone-axes"``: a zone axis [uvw] with indices up to 2, turned about the beam, then tilted.  ``"random"``: all
        orientations; `tilt` plays no role.
    beam_energy : float or tuple of float
        In kV, 30 to 1000; a range is drawn from evenly.
    semi_angle : float or tuple of float
        Of convergence in mrad, 0.1 to 50; a range is drawn from evenly in the logarithm.
    pixels : int
        Of the square detector along each side.
    reciprocal_radius : float
        From the direct beam to the middles of the detector's sides, in Å⁻¹.
    engine : str
        ``"many-beam"``, or ``"multislice"`` (abTEM, extra ``multislice``), some thirty times slower.
    seed : int
        Of all that is drawn.
    debye_waller : float
        B of all atoms in square Angstrom.
    minimum_intensity : float
        Disks that are fainter than this, relative to the incident beam, are not in the tables.
    shard : int, optional
        Quartets in a shard, which are made, kept and read together.  Default is 64, and 16 with multislice.
    threads : int, optional
        That simulate at once, with many beams.  By default one for each core.
    overwrite : bool
        Replace a set that is there.
    show_progressbar : bool, optional
        By default HyperSpy's preference says.

    Returns
    -------
    Quartets
        As :func:`open_quartets` gives it.

    Raises
    ------
    TypeError, ValueError
        For settings outside of their bounds, cells that are too large, and a set that was begun with other settings.
    OSError
        If the disk is full: what is made is kept.
    KeyboardInterrupt
        After Ctrl-C: shards that are made are kept.

    Notes
    -----
    Images and tables are those of J. Munshi et al., *npj Computational Materials* 8, 254 (2022).  Patterns are without
    noise, background, absorption and thermal diffuse scattering: relative to the incident beam, for noise to be added
    when they are used.  Many-beam crystals are whole slices of 4 Angstrom thick.  Patterns are the same to the last bit
    on the same computer with the same releases.

    Examples
    --------
    >>> import pyxem_dl
    >>> quartets = pyxem_dl.make_quartets(
    ...     pyxem_dl.data.aluminium(), "al.zarr", n=4, thickness=(50, 200), pixels=64
    ... )  # doctest: +SKIP
    >>> probe, pattern, potential, q_z = quartets[0][:4]  # doctest: +SKIP
    """
    settings = Settings(
        thickness=thickness, tilt=tilt, orientations=orientations, beam_energy=beam_energy, semi_angle=semi_angle,
        pixels=pixels, reciprocal_radius=reciprocal_radius, debye_waller=debye_waller,
        minimum_intensity=minimum_intensity, engine=engine, seed=seed,
    )  # fmt: skip
    n = whole_number("n", n, 1, MOST_QUARTETS)
    shard = None if shard is None else whole_number("shard", shard, 1, largest_shard(settings.pixels))
    threads = len(os.sched_getaffinity(0)) if threads is None and hasattr(os, "sched_getaffinity") else threads
    threads = whole_number("threads", threads or os.cpu_count() or 1, 1, 1024)
    flag("overwrite", overwrite)
    path = _check_path(Path(output))
    crystals = read_crystals(phases)
    from pyxem_dl import __version__

    default = min(_SHARD[settings.engine], largest_shard(settings.pixels))
    manifest = Manifest(n, shard or default, settings, crystals, __version__)
    simulate = _Simulate(manifest)
    with claimed(path):
        if overwrite and path.exists():
            remove(path)
        store = _continued(path, manifest, shard) if path.exists() else _begun(path, manifest)
        _make(store, simulate, threads, show_progressbar)
    return open_quartets(path)


def _check_path(path: Path) -> Path:
    if path.suffix != ".zarr":
        raise ValueError(f"The name of a set ends with .zarr, unlike {str(path)!r}.")
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, and no set: give another name.")
    return path


def _begun(path: Path, manifest: Manifest) -> Store:
    """Make an empty set, and say what it will need."""
    needed = _BYTES_PER_PIXEL * manifest.n * manifest.settings.pixels**2
    check_target(path)
    free = shutil.disk_usage(next(p for p in path.resolve().parents if p.exists())).free
    if needed > free:
        warn(
            f"{path} will need about {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free. If the disk is full, "
            "what is made is kept, and the same call goes on."
        )
    return Store.create(path, manifest)


def _continued(path: Path, manifest: Manifest, shard: int | None) -> Store:
    """Open a set that was begun before, and make sure that it is the same."""
    there = read_manifest(path)
    different = _differences(there, manifest, shard)
    if different:
        raise ValueError(
            f"{path} was begun with other settings: {'; '.join(different)}. Give the same, another name, or "
            "overwrite=True."
        )
    if manifest.n < there.n:
        raise ValueError(
            f"{path} is a set of {there.n} quartets. Give n={there.n} to finish it, a larger n for more, or another "
            "name."
        )
    return Store.grown(path, replace(there, n=manifest.n))


def _differences(there: Manifest, here: Manifest, shard: int | None) -> list[str]:
    """Say in what two manifests differ."""
    old, new = there.settings.to_dict(), here.settings.to_dict()
    found = [f"{name} was {old[name]} and is {new[name]}" for name in old if old[name] != new[name]]
    if shard is not None and shard != there.shard:
        found.append(f"shard was {there.shard} and is {shard}")
    hashes = [[crystal.hash for crystal in manifest.crystals] for manifest in (there, here)]
    if hashes[0] != hashes[1]:
        text = [f"{len(m.crystals)} ({', '.join(c.formula for c in m.crystals[:4])}...)" for m in (there, here)]
        found.append(f"the phases were {text[0]} and are {text[1]}")
    return found


def _make(store: Store, simulate: _Simulate, threads: int, show_progressbar: bool | None) -> None:
    """Make all shards that are not there."""
    manifest = store.manifest
    made = store.n_made(thorough=True)
    whole = {i for i, n in made.items() if n == len(store.indices(i))}
    if len(whole) == manifest.n_shards:
        return
    n_made = sum(made[i] for i in whole)
    if made:
        say(f"Continuing after {n_made} of {manifest.n} quartets in {store.path}.")
        _check_same(store, min(made), simulate)
    with _one_thread_each(), progressbar(manifest.n, show_progressbar, " quartets") as bar:
        bar.update(n_made)
        try:
            for i in (i for i in range(manifest.n_shards) if i not in whole):
                indices = store.indices(i).tolist()
                store.write(i, list(_counted(simulate.all(indices, threads), bar)))
                n_made += len(indices)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{n_made} of {manifest.n} quartets are saved in {store.path}: repeat the call to go on."
            ) from None
        except OSError as error:
            raise OSError(
                error.errno, f"{store.path} could not be written ({error.strerror or error}). {n_made} of {manifest.n} "
                "quartets are saved. Free some space and repeat the call: it goes on from there"
            ) from error


class _Simulate:
    """From a quartet's number to what is stored of it."""

    def __init__(self, manifest: Manifest) -> None:
        self.settings = manifest.settings
        # those of the manifest, so that whoever has it can make the same
        self.phases = [crystal.phase for crystal in manifest.crystals]
        self.engine = make_engine(self.phases, self.settings)

    def __call__(self, index: int) -> tuple[Drawn, Simulated]:
        drawn = draw(index, self.settings, self.phases)
        return drawn, self.engine(drawn)

    def all(self, indices: list[int], threads: int) -> Iterator[tuple[Drawn, Simulated]]:
        """Yield those of several numbers, in order."""
        if threads == 1 or not self.engine.in_threads:
            yield from map(self, indices)
            return
        with ThreadPoolExecutor(min(threads, len(indices))) as pool:
            try:
                yield from pool.map(self, indices)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _counted(items, bar) -> Iterator:
    for item in items:
        bar.update()
        yield item


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let each operation run on one core: several would add up numbers in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_same(store: Store, shard: int, simulate: _Simulate) -> None:
    """Make sure that what is there is what would be made now."""
    there = store.read(shard, slice(0, 1))
    with _one_thread_each():
        _, now = simulate(int(store.indices(shard)[0]))
    difference = float(np.abs(there.pattern[0] - now.pattern).max() / now.pattern.max())
    if not difference < _SAME:
        raise ValueError(
            f"{store.path} was begun with pyxem_dl {store.manifest.package_version}, whose patterns differ from those "
            f"of this version (by {difference:.2g} of the brightest pixel). Finish it with that version, give another "
            "name, or overwrite=True."
        )
