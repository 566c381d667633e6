"""Identify the phases of a scan: a sample of it, looked at for one candidate after another."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pyxem_dl.checks import whole_number
from pyxem_dl.crystals import ReflectionTable, load_phases, reflections, structures
from pyxem_dl.crystals.alike import entries_of
from pyxem_dl.devices import computing
from pyxem_dl.identification.evidence import FEWEST_PEAKS, PeakPlaces, evidence, explained, likelihood
from pyxem_dl.identification.result import Entry, Identified
from pyxem_dl.identification.selection import select
from pyxem_dl.messages import say, warn
from pyxem_dl.models import ANY_CRYSTAL, OrientationModel, load_model, with_phases
from pyxem_dl.preprocessing import as_float32, in_electrons
from pyxem_dl.preprocessing.usable import usable_patterns
from pyxem_dl.progress import progressbar
from pyxem_dl.records import made_by, with_record
from pyxem_dl.scans import Computing, Reading, Scan
from pyxem_dl.scans.fingerprint import readable_patterns
from pyxem_dl.templates.cost import cost_one_by_one

if TYPE_CHECKING:
    from pyxem_dl.annotations import Center, Patterns, Phases

# Patterns that go through the network at once, and those of a sample, at most
_AT_ONCE, _MOST_PATTERNS = 64, 10_000
# Seconds of a core for each pattern, beside the network: how likely its peaks are
_OF_PEAKS = 2e-3


def identify_phases(
    signal: Patterns,
    phases: Phases,
    *,
    model: str | Path | OrientationModel | None = None,
    n_patterns: int = 200,
    seed: int = 0,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
) -> Identified:
    """Find out which of many phases are in a scan, and how sure that is.

    A sample of the patterns is looked at for each phase by itself.  A mixture of phases, and of none of them, is fitted
    to what is found; few phases are preferred to many.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Patterns with 0, 1 or 2 navigation dimensions, in memory or lazy, calibrated.
    phases : orix.crystal_map.Phase, path of a CIF file or of a folder of them, or a list of these
        What may be there: from two to hundreds.
    model : str, pathlib.Path or OrientationModel, optional
        That takes phases: a name, folder or address, as in :func:`pyxem_dl.load_model`, or a loaded model; by default
        "any-crystal".
    n_patterns : int
        Of the sample, spread over the scan.
    seed : int
        Of the places of the sample.
    navigation_mask, signal_mask, center, beam_energy, device, show_progressbar
        As in :func:`pyxem_dl.predict_orientation`.

    Returns
    -------
    Identified
        ``print`` shows a table; ``found.phases`` are those that are there, for ``predict_orientation``.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal, phases or a model that cannot be used, or if no phase has a reflection that the detector could
        see; the message says what to do.

    Warns
    -----
    UserWarning
        If phases are left out, with the reason; if phases cannot be told apart; if no pattern has enough peaks; if the
        beam energy is none that the model was trained for.

    Notes
    -----
    Phases are looked at one after another, so that memory does not grow with their number.  The evidence for a phase
    is a weighted sum of the network's logits and of a likelihood, without weights that are learnt, of the places of the
    peaks given its spots.  Patterns with fewer than three peaks, vacuum and film, are left out and counted.

    Examples
    --------
    >>> found = pyxem_dl.identify_phases(s, pyxem_dl.structures("my_cifs/"))  # doctest: +SKIP
    >>> print(found)  # doctest: +SKIP
    >>> xmap = s.predict_orientation(phases=found.phases)  # doctest: +SKIP
    """
    n_patterns = whole_number("n_patterns", n_patterns, 1, _MOST_PATTERNS)
    seed, device = whole_number("seed", seed), Computing(device, show_progressbar=show_progressbar).torch_device
    listed = _listed(phases)
    model = load_model(ANY_CRYSTAL if model is None else model)
    if not getattr(model, "takes_phases", False) or model.phases:
        raise ValueError(
            f"The model {getattr(model, 'name', model)!r} knows its own phases only. Leave model out, or give one that "
            "takes phases."
        )
    scan = Scan.from_signal(signal, navigation_mask=navigation_mask, signal_mask=signal_mask, center=center,
                            beam_energy=beam_energy)  # fmt: skip
    looking = with_phases(model, listed[:1], scan.calibration)
    looking.check_domain(scan.calibration)
    radius = looking.preprocessing.reciprocal_radius
    usable, left_out = _with_reflections(listed, radius)
    entries, pairs = entries_of(usable)
    for text in [f"{name} is left out: {reason}" for name, reason in left_out.items()] + [str(p) for p in pairs]:
        warn(text)
    first = [usable[entry[0]] for entry in entries]
    looking.to(device)
    sample = Sampled.of(scan, looking, n_patterns, seed)
    kept = sample.peaks.count >= FEWEST_PEAKS
    _announce(first, usable, kept, looking.preprocessing)
    if not bool(kept.any()):
        warn(
            f"None of {len(kept)} patterns has {FEWEST_PEAKS} peaks: nothing can be identified. Is it vacuum? If there "
            "are spots, check the center, and signal_mask."
        )
    looks = []
    with progressbar(len(first), show_progressbar, " phases") as bar:
        for phase in first:
            looks.append(look(looking, phase, sample.at(kept)))
            bar.update()
    found = _result(usable, entries, pairs, looks, sample.at(kept), left_out, int((~kept).sum()))
    reading = Reading(navigation_mask, signal_mask, center, beam_energy)
    return with_record(found, made_by(
        "identify_phases", signal=signal, model=model, calibration=scan.calibration,
        phases=[phase.name for phase in listed], n_patterns=n_patterns, seed=seed, **reading.asked(),
    ))  # fmt: skip


def _listed(phases) -> list:
    """Phases of all that may be given, folders too."""
    from orix.crystal_map import Phase, PhaseList

    if isinstance(phases, (str, Path, Phase, PhaseList)) or not isinstance(phases, Iterable):
        phases = [phases] if isinstance(phases, (str, Path)) else phases
    if not isinstance(phases, (list, tuple)):
        return load_phases(phases)
    found = []
    for each in phases:
        is_folder = isinstance(each, (str, Path)) and Path(each).is_dir()
        found += list(structures(each)) if is_folder else [each]
    return load_phases(found)


def _with_reflections(phases: list, radius: float) -> tuple[list, dict[str, str]]:
    """Phases that can be seen to a radius (Å⁻¹), and the reasons why others are left out."""
    usable, left_out = [], {}
    for phase in phases:
        try:
            reflections(phase, radius)
        except ValueError as error:
            left_out[phase.name] = str(error)
        else:
            usable.append(phase)
    if not usable:
        raise ValueError(f"No phase is left to look for: {next(iter(left_out.values()))}")
    return usable, left_out


class Sampled(NamedTuple):
    """Patterns of a sample: the network's ``inputs``, each of n rows, and their ``peaks``."""

    inputs: tuple[torch.Tensor, ...]
    peaks: PeakPlaces

    @classmethod
    def of(cls, scan: Scan, model: OrientationModel, n: int, seed: int) -> Sampled:
        """Read patterns, spread over what is not excluded."""
        gain = 1.0
        if model.counts_electrons:
            gain = scan.counts_per_electron()
        indices, found = readable_patterns(scan.data, _spread(np.flatnonzero(~scan.navigation_mask), n, seed))
        patterns = torch.from_numpy(np.stack([as_float32(np.asarray(x)) for x in found]))
        patterns = in_electrons(patterns, gain)
        centers = scan.batch_centers(patterns, indices)
        return cls.of_patterns(model, patterns, scan.calibration, centers, scan.signal_mask)

    @classmethod
    def of_patterns(cls, model: OrientationModel, patterns, calibration, centers=None, signal_mask=None) -> Sampled:
        """Make it of patterns (n, rows, columns) in electrons."""
        patterns, _ = usable_patterns(patterns, signal_mask)
        mask, beams = (None if x is None else x.numpy() for x in (signal_mask, centers))
        radius = model.preprocessing.reciprocal_radius
        peaks, device, columns = PeakPlaces.of(patterns.numpy(), calibration, beams, mask, radius), model.device, []
        mask = None if signal_mask is None else signal_mask.to(device)
        for start in range(0, len(patterns), _AT_ONCE):
            part, beams = (None if x is None else x[start : start + _AT_ONCE].to(device) for x in (patterns, centers))
            with torch.inference_mode(), computing(device):
                polar, valid, intensity, pixels = model.preprocessing.counted(part, calibration, beams, mask)
            pixels = pixels.expand(len(polar), -1)
            columns.append([x.cpu() for x in (polar, valid.expand_as(polar), intensity, pixels)])
        return cls(tuple(torch.cat(column) for column in zip(*columns, strict=True)), peaks)

    @classmethod
    def joined(cls, samples: Iterable[Sampled]) -> Sampled:
        """Put samples behind each other."""
        inputs, peaks = zip(*samples, strict=True)
        inputs = tuple(torch.cat(column) for column in zip(*inputs, strict=True))
        return cls(inputs, PeakPlaces(*(torch.cat(column) for column in zip(*peaks, strict=True))))

    def at(self, rows) -> Sampled:
        """Take some of them."""
        return Sampled(tuple(x[rows] for x in self.inputs), self.peaks.at(rows))


def _spread(positions: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Take at most n positions, one at a random place of each of as many parts."""
    if len(positions) <= n:
        return positions
    edges = np.linspace(0, len(positions), n + 1)
    random = np.random.default_rng(seed).random(n)
    return positions[(edges[:-1] + random * np.diff(edges)).astype(int).clip(0, len(positions) - 1)]


class Look(NamedTuple):
    """What n patterns say of a phase: arrays (n,).

    ``evidence``; the network's probability ``score`` that one of its orientations is right; shares of the peaks that
    the best one explains, and that it would by ``chance``.
    """

    evidence: np.ndarray
    score: np.ndarray
    explained: np.ndarray
    chance: np.ndarray


class Said(NamedTuple):
    """Orientations of a phase that n patterns may have: ``rotations (n, m, 4)``, and what is said of each (n, m).

    ``logits`` by the network, and ``of_peaks``, logarithms of how likely they make the places of the peaks.
    """

    rotations: torch.Tensor
    logits: torch.Tensor
    of_peaks: torch.Tensor


def said_of(model: OrientationModel, phase, sample: Sampled) -> Said:
    """Look for one phase; nothing that is made for it is kept."""
    energy, radius = model.domain["beam_energy"], model.preprocessing.reciprocal_radius
    network, found = model.network.with_phases([phase], energy, model.preprocessing), []
    with torch.inference_mode(), computing(model.device, model.precision):
        for parts in zip(*(x.split(_AT_ONCE) for x in sample.inputs), strict=True):
            verified = network.verify([x.to(model.device) for x in parts])
            found.append((verified.rotations.float().cpu(), verified.score.float().cpu()))
    rotations, logits = (torch.cat(column) for column in zip(*found, strict=True))
    return Said(rotations, logits, likelihood(sample.peaks, _table(model, phase), rotations, energy, radius))


def look(model: OrientationModel, phase, sample: Sampled) -> Look:
    """Sum up what patterns say of a phase."""
    if not len(sample.peaks.kx):
        return Look(*np.zeros((4, 0)))
    said = said_of(model, phase, sample)
    energy, radius = model.domain["beam_energy"], model.preprocessing.reciprocal_radius
    speaks = evidence(said.logits, said.of_peaks, sample.peaks.count)
    score = torch.sigmoid((said.logits / model.network.arguments["temperature"]).logsumexp(1))
    best = said.rotations[torch.arange(len(speaks)), said.of_peaks.argmax(1)]
    shares = explained(sample.peaks, _table(model, phase), best, energy, radius)
    return Look(*(x.numpy().astype(float) for x in (speaks, score, *shares)))


def _table(model: OrientationModel, phase) -> ReflectionTable:
    found = reflections(phase, model.preprocessing.reciprocal_radius)
    return ReflectionTable.stack([found], model.domain["beam_energy"])


def _announce(first: list, phases: list, kept, preprocessing) -> None:
    """Say what is done, how long it takes and how much memory."""
    n = int(kept.sum())
    lines = [f"Phase identification: {len(phases)} phase{'s' * (len(phases) > 1)}", f"Patterns: {n} of {len(kept)}"]
    lines[1] += f" (the others have fewer than {FEWEST_PEAKS} peaks)" if not bool(kept.all()) else ""
    lines.append(cost_one_by_one(first, preprocessing, n, _OF_PEAKS))
    say("\n".join(lines))


def _result(phases, entries, pairs, looks, sample, left_out, n_faint: int) -> Identified:
    """Select phases, and put together what is known of each entry."""
    found = select(np.stack([look.evidence for look in looks], axis=1))
    why = {entry[0]: [str(p) for p in pairs if p.first == entry[0]] for entry in entries}
    rows = []
    for j, (entry, look) in enumerate(zip(entries, looks, strict=True)):
        weight = found.members[:, j] if found.weight[j] > 0 else np.ones(len(look.evidence))
        total = max(weight.sum(), 1e-12)
        mean = {
            name: float((getattr(look, name) * weight).sum() / total) if len(weight) else 0.0
            for name in ("score", "explained", "chance")
        }
        rows.append(Entry(
            [phases[i] for i in entry], float(found.probability[j]), float(found.weight[j]), why=why[entry[0]], **mean
        ))  # fmt: skip
    # phases that are all as unlikely by the score
    rows.sort(key=lambda row: (-round(row.probability, 2), -row.share, -row.score))
    return Identified(rows, len(sample.peaks.kx), n_faint, found.none, left_out)
