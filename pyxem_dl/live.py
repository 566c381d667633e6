"""While it is measured: any step as a LiberTEM UDF, for files and for streams of detectors (extra ``live``).

Examples
--------
>>> from libertem.api import Context
>>> from pyxem_dl.frames import Calibration
>>> from pyxem_dl.live import OrientationUDF, follow
>>> udf = OrientationUDF("any-crystal", Calibration.from_signal(earlier), phases="my.cif")  # doctest: +SKIP
>>> for partial in follow(ctx, acquisition, udf):  # doctest: +SKIP
...     xmap = partial.to_crystal_map()
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

try:
    from libertem.udf import UDF
except ImportError as error:
    raise ImportError('Following a detector needs LiberTEM: python -m pip install "pyxem-dl[live]"') from error

from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration, upside_down
from pyxem_dl.messages import warn
from pyxem_dl.models import OrientationEnsemble, OrientationModel, load_model, phases_to_find, with_phases
from pyxem_dl.networks.candidates import MOST_CRYSTALS
from pyxem_dl.orientation import OrientationStep, check_overlap
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.assembly import PredictedMap
from pyxem_dl.scans import Collected, Computing, Partial, Positions, Reading, Rows, Scan, Step
from pyxem_dl.scans.sent import SentStep

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

__all__ = ["OrientationUDF", "StepUDF", "follow"]

_DONE = "done"
# More modes than this no distribution has
_MOST_CANDIDATES = 100


class StepUDF(UDF):
    """Any step of pyxem_dl as a user-defined function of LiberTEM.

    It has a buffer over the navigation for each of the step's fields, and ``done``.  What a pattern gives any number of
    rows of, as Bragg vectors, is in a buffer of arrays.

    Parameters
    ----------
    step : Step
        What is done to every pattern.
    flip_y : bool
        Turn the frames upside down first (:func:`pyxem_dl.frames.upside_down`): HyperSpy shows files of a Merlin camera
        (``.mib``) so, LiberTEM does not.
    device : str
        "auto" (CUDA, else MPS, else CPU) or a name of torch, in each of LiberTEM's workers.
    batch_size : int, optional
        Patterns on the device at once.
    """

    def __init__(
        self, step: Step, *, flip_y: bool = False, device: str = "auto", batch_size: int | None = None
    ) -> None:
        super().__init__(step=SentStep(step, Computing(device, batch_size)), fields=step.fields, flip_y=flip_y)

    @classmethod
    def new_for_partition(cls, kwargs, partition, roi) -> StepUDF:
        """Make one that computes a partition, in whatever process; LiberTEM gives the arguments that are kept."""
        new = cls._of(kwargs)
        new.params.new_for_partition(partition, roi)
        return new

    def copy(self) -> StepUDF:
        """Make another with the same step."""
        return self._of(self._kwargs)

    @classmethod
    def _of(cls, kwargs) -> StepUDF:
        new = cls.__new__(cls)
        UDF.__init__(new, **kwargs)
        return new

    def get_result_buffers(self) -> dict:
        """One for each of the step's fields, and whether a position is done."""
        buffers = {
            name: self.buffer(kind="nav", dtype=object)
            if field.ragged
            else self.buffer(kind="nav", extra_shape=field.shape, dtype=field.dtype)
            for name, field in self.params.fields.items()
        }
        return buffers | {_DONE: self.buffer(kind="nav", dtype=bool)}

    def get_preferred_input_dtype(self):
        """Integers stay integers: the device makes them floating point."""
        return self.USE_NATIVE_DTYPE

    def process_partition(self, partition: np.ndarray) -> None:
        """Do the step with the frames of a partition, (n, rows, columns)."""
        patterns = np.asarray(partition)
        patterns = upside_down(patterns) if self.params.flip_y else patterns
        start = 0
        for part in self.params.step.compute(self._indices(), patterns):
            there = slice(start, start + len(part.indices))
            for name, values in part.arrays.items():
                buffer = getattr(self.results, name)
                if isinstance(values, Rows):
                    for i, table in enumerate(values.tables(), start):
                        buffer[i] = table
                else:
                    buffer[there] = values
            self.results.done[there] = True
            start = there.stop

    def _indices(self) -> np.ndarray:
        """Flat navigation indices of the frames of this partition."""
        return np.ravel_multi_index(tuple(self.meta.coordinates.T), tuple(self.meta.dataset_shape.nav))

    def collected(self, result) -> Collected:
        """Gather what is done.

        Parameters
        ----------
        result : dict of BufferWrapper, or a partial result
            What LiberTEM's ``run_udf`` or ``run_udf_iter`` gives for this UDF alone.

        Returns
        -------
        Collected
            As a verb of pyxem_dl has it: arrays over the flat navigation, and which positions are done.
        """
        buffers = _buffers(result)
        done = np.asarray(buffers[_DONE].data).reshape(-1)
        found = Collected(len(done), self.params.fields)
        found.done[:] = done
        for name, field in self.params.fields.items():
            values = np.asarray(buffers[name].data)
            if not field.ragged:
                found.arrays[name] = np.where(_as(done, field.shape), values.reshape(len(done), *field.shape), 0)
                continue
            tables = found.tables(name, field.shape)
            for i in np.flatnonzero(done):
                tables[i] = values.reshape(-1)[i]
        return found


class OrientationUDF(StepUDF):
    """Orientations of every frame, from a file, from memory or from a detector that measures.

    Parameters
    ----------
    model : str, pathlib.Path, OrientationModel or a list of these
        As in :func:`pyxem_dl.predict_orientation`.
    calibration : Calibration
        Of the detector: ``Calibration.from_signal(s)`` of an earlier scan that was made alike, or typed in.
    n_best : int
        Number of separated orientations to keep for each position.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be there, for a model that takes any crystal.
    counts_per_electron : float
        What the detector writes for an electron: such a model counts electrons.
    overlap : bool
        Look for up to three crystals above each other, as in :func:`pyxem_dl.predict_orientation`.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded; :func:`pyxem_dl.find_bad_pixels` finds it in an earlier scan.  With
        `flip_y` it is that of the turned frames, as HyperSpy shows them, as is the calibration.
    flip_y, device, batch_size
        As in :class:`StepUDF`.

    Raises
    ------
    TypeError, ValueError
        For a model, a calibration or a mask that cannot be used; the message says what to do.

    Warns
    -----
    UserWarning
        If the detector or the beam energy is not what the model was trained for.
    """

    def __init__(
        self,
        model,
        calibration: Calibration,
        n_best: int = 1,
        *,
        phases: Phases | None = None,
        counts_per_electron: float = 1.0,
        overlap: bool = False,
        signal_mask: np.ndarray | None = None,
        flip_y: bool = False,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        n_best = whole_number("n_best", n_best, 1, _MOST_CANDIDATES)
        model = load_model(model)
        if not isinstance(model, (OrientationModel, OrientationEnsemble)):
            raise TypeError(f"{model!r} does not predict orientations: give an orientation model.")
        if not isinstance(calibration, Calibration):
            raise TypeError(
                f"calibration must be a Calibration, not {type(calibration).__name__}: give "
                "`Calibration.from_signal(s)` of an earlier scan, from pyxem_dl.frames."
            )
        if n_best > 1 and not model.gives_several:
            raise ValueError("n_best > 1 needs a single network that proposes several orientations: use n_best=1.")
        model.check_thresholds()
        if flag("overlap", overlap):
            check_overlap(model, n_best, 0)
            n_best = MOST_CRYSTALS
        gain = number("counts_per_electron", counts_per_electron, 0, above=True)
        phases = phases_to_find(model, phases)
        phases = phases if phases is None else load_phases(phases)
        self._record = made_by(
            "live.OrientationUDF", model=model, calibration=calibration, n_best=n_best, overlap=overlap,
            counts_per_electron=gain,
            phases=[phase.name for phase in (model.phases if phases is None else phases)],
            **Reading(signal_mask=signal_mask).asked(),
        )  # fmt: skip
        model = model if phases is None else with_phases(model, phases, calibration)
        model.check_domain(calibration)
        scan = _detector(calibration, signal_mask)
        self._model, self._n_best, self._overlap = model, n_best, overlap
        step = OrientationStep(model, scan, n_best, gain=gain, overlap=overlap)
        super().__init__(step, flip_y=flip_y, device=device, batch_size=batch_size)

    def assembly(self, positions: Positions) -> PredictedMap:
        """Make what makes the map of a scan of such positions."""
        thresholds = dict(self._model.thresholds)
        return PredictedMap(positions, self._model.phases, self._n_best, thresholds, overlap=self._overlap)

    def to_crystal_map(self, result, scan_step: float | tuple[float, ...] = 1.0, scan_unit: str = "px"):
        """Make a crystal map of what is done.

        Parameters
        ----------
        result : dict of BufferWrapper, or a partial result
            What ``run_udf`` or ``run_udf_iter`` gives for this UDF alone.
        scan_step : float or tuple of float
            Distance of neighbours, in `scan_unit`; or one along each dimension of the navigation, (y, x).
        scan_unit : str
            Its unit.

        Returns
        -------
        orix.crystal_map.CrystalMap
            As from :func:`pyxem_dl.predict_orientation`; what is not done is not in its data.
        """
        shape = tuple(_buffers(result)[_DONE].data.shape)
        return self.made(self.assembly(_positions(shape, scan_step, scan_unit)), self.collected(result))

    def made(self, assembly: PredictedMap, found: Collected):
        """Make the map of what was found, which says where it comes from."""
        return with_record(assembly(found), self._record)


def follow(
    ctx, dataset, udf: OrientationUDF, *, scan_step: float | tuple[float, ...] = 1.0, scan_unit: str = "px", **options
) -> Iterator[Partial]:
    """Run a UDF, and see the map grow.

    Parameters
    ----------
    ctx : libertem.api.Context or libertem_live.api.LiveContext
        What runs it.
    dataset : libertem dataset or acquisition
        A file, or a detector.
    udf : OrientationUDF
        What is predicted.
    scan_step, scan_unit
        As in :meth:`OrientationUDF.to_crystal_map`.
    **options
        Of LiberTEM's ``run_udf_iter``, such as ``roi``.

    Yields
    ------
    pyxem_dl.scans.Partial
        After each partition, always the same object, that grows, as from :func:`pyxem_dl.iter_predict_orientation`.

    Raises
    ------
    Exception
        What LiberTEM raises, if nothing is done yet.

    Warns
    -----
    UserWarning
        If the stream stops before its end, or Ctrl-C ends the waiting for it: what is done is kept, and the rest is not
        in the data of the map.
    """
    shape = tuple(dataset.shape.nav)
    positions = _positions(shape, scan_step, scan_unit)
    found, n = Collected(positions.size), positions.size
    scan = Scan(None, None, np.zeros(n, dtype=bool), None, None, positions)
    roi = options.get("roi")
    if roi is not None:
        scan.navigation_mask = ~np.asarray(roi, dtype=bool).reshape(-1)
    partial = Partial(functools.partial(udf.made, udf.assembly(positions)), found, scan)
    why = "it ended"
    try:
        for result in ctx.run_udf_iter(dataset=dataset, udf=udf, **options):
            now = udf.collected(result)
            found.done, found.arrays = now.done, now.arrays
            yield partial
    # whatever a detector or LiberTEM raise, and Ctrl-C while nothing comes: hours of measuring are not lost
    except (Exception, KeyboardInterrupt) as error:
        if not found.done.any():
            raise
        why = f"{type(error).__name__}: {error}".removesuffix(": ")
    if partial.n_done < partial.n:
        warn(
            f"The stream stopped after {partial.n_done} of {partial.n} patterns ({why}): the rest is not in the data "
            "of the map."
        )


def _detector(calibration: Calibration, signal_mask) -> Scan:
    """Make a scan of which nothing but the detector is known."""
    if signal_mask is not None:
        signal_mask = np.asarray(signal_mask)
        if signal_mask.dtype != bool or signal_mask.shape != tuple(calibration.shape):
            raise ValueError(
                f"signal_mask must be bool of shape {tuple(calibration.shape)} (True = excluded), not "
                f"{signal_mask.dtype} of {signal_mask.shape}."
            )
        signal_mask = torch.from_numpy(signal_mask.copy())
    return Scan(None, calibration, np.zeros(0, dtype=bool), signal_mask, None, Positions((), (), "px"))


def _positions(shape: tuple[int, ...], scan_step, scan_unit: str) -> Positions:
    steps = np.broadcast_to(np.asarray(scan_step, dtype=float), len(shape))
    if len(shape) > 2 or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ValueError(
            f"scan_step must be a positive number, or one for each of 1 or 2 dimensions of the navigation, not "
            f"{scan_step!r} for the navigation {shape}."
        )
    return Positions(tuple(int(n) for n in shape), tuple(steps.tolist()), scan_unit)


def _buffers(result) -> dict:
    """Buffers of the first UDF of a whole or partial result."""
    return result.buffers[0] if hasattr(result, "buffers") else result


def _as(done: np.ndarray, row: tuple[int, ...]) -> np.ndarray:
    """Shape a mask (n,) so that it goes with rows of values."""
    return done.reshape(-1, *(1,) * len(row))
