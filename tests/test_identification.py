"""Which phases are in a scan: evidence, the few that explain all, and what cannot be told apart."""

import json
import re
from functools import lru_cache

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase
from sample_phases import FCC, phase, raw_phase

import pyxem_dl
from pyxem_dl import identify_phases
from pyxem_dl.crystals import ReflectionTable, load_phases, reflections
from pyxem_dl.crystals.alike import alike_phases, entries_of
from pyxem_dl.frames import Calibration
from pyxem_dl.identification import fitting
from pyxem_dl.identification.evidence import PeakPlaces, Weights, evidence, explained, likelihood
from pyxem_dl.identification.fitting import fit_evidence
from pyxem_dl.identification.identify import Said, _spread
from pyxem_dl.identification.selection import select
from pyxem_dl.models import OrientationModel
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork, Verified
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.rotations import random_rotations, rotate_in_plane
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation import PatternSimulator, SimulationSettings

QUIET = {"show_progressbar": False, "device": "cpu"}
CLEAR = SimulationSettings(
    electrons=(3e4, 1e5), background=(0.003, 0.01), overlap_share=0.0, empty_share=0.0, ghost_share=0.0,
    fault_share=0.0, threshold_share=0.0, beam_stop_share=0.0, disk_radius=(0.02, 0.03), precession_share=0.0,
    thickness=(100.0, 200.0), pixels=(96,), scale_error=(-0.005, 0.005), ellipticity=(0.0, 0.005),
)  # fmt: skip


def fcc(name, a, c=None, element="Cu"):
    """Face-centred metal of a cubic or, with another c, tetragonal cell."""
    atoms = [Atom(element, x) for x in FCC]
    structure = Structure(lattice=Lattice(a, a, c or a, 90, 90, 90), atoms=atoms)
    return Phase(name, space_group=225 if c is None else 123, structure=structure)


def triclinic(name="triclinic"):
    atoms = [Atom("Si", (0.1, 0.2, 0.3)), Atom("O", (0.6, 0.5, 0.8))]
    return Phase(name, space_group=1, structure=Structure(atoms, Lattice(4.1, 5.3, 6.2, 81, 97, 108)))


class Knowing(AnyCrystalNetwork):
    """A network that has one answer for all patterns: the truth for the right phase, anything for others."""

    def __init__(self, name, rotation):
        super().__init__(width=8)
        self.name, self.rotation = name, rotation

    def verify(self, inputs):
        n, right = len(inputs[0]), self._named.phases[0].name == self.name
        rotations = random_rotations(2 * n, torch.Generator().manual_seed(0)).reshape(n, 2, 4)
        if right:
            rotations[:, 0] = self.rotation
        score = torch.tensor([5.0, -1.0] if right else [-1.0, -1.5]).expand(n, 2)
        return Verified(rotations, torch.zeros(n, 2, dtype=torch.long), score)


def model_of(network):
    return OrientationModel("any_crystal", network.eval(), PolarPreprocessing(1.5), [], name="small")


@lru_cache
def one_pattern(name):
    """A pattern with many peaks where the crystal has its spots, its detector, and its orientation."""
    made = PatternSimulator([phase(name)], 200, 1.2, CLEAR, seed=3)(24)
    peaks = PeakPlaces.of(made.patterns.numpy(), made.calibration, None, None, 1.2)
    table = ReflectionTable.stack([reflections(phase(name), 1.2)], 200.0)
    best = int((explained(peaks, table, made.rotations, 200.0, 1.2)[0].square() * peaks.count).argmax())
    return made.patterns[best].numpy(), made.calibration, made.rotations[best]


def case(name, n=10):
    """A signal of patterns of one orientation, with film in the first two, and a model that knows it."""
    (pattern, calibration, rotation), generator = one_pattern(name), np.random.default_rng(0)
    patterns = generator.poisson(np.repeat(pattern[None], n, axis=0)).astype(float)
    patterns[:2] = generator.poisson(1.0, patterns[:2].shape)
    return make_signal(patterns, calibration, name), model_of(Knowing(name, rotation))


# ---------------------------------------------------------------- what cannot be told apart
def test_a_slightly_larger_cell_is_no_other_phase():
    (pair,) = alike_phases(load_phases([fcc("Cu", 3.615), raw_phase("Al"), fcc("swollen Cu", 3.615 * 1.002)]))
    assert (pair.first, pair.second) == (0, 2) and pair.difference == pytest.approx(0.2, abs=0.01)
    assert "Cu and swollen Cu cannot be told apart" in str(pair) and "cells differ by 0.2 %" in str(pair)


@pytest.mark.parametrize("other, alike", [
    (fcc("larger", 3.615 * 1.03), False), (fcc("long", 3.615, 3.615 * 1.008), True),
    (fcc("longer", 3.615, 3.615 * 1.03), False), (fcc("gold", 3.615, element="Au"), True),
])  # fmt: skip
def test_what_is_alike(other, alike):
    assert bool(alike_phases(load_phases([fcc("Cu", 3.615), other]))) is alike


def test_entries_of_a_list():
    listed = load_phases([raw_phase("LiNiO2"), raw_phase("Al"), raw_phase("LiNiO2"), raw_phase("MgO"), triclinic()])
    entries, (pair,) = entries_of(listed)
    assert entries == [[0, 2], [1], [3], [4]]
    assert pair.difference is None and "are one structure" in str(pair)


def test_twins_are_one_entry_of_a_map_and_said_once():
    torch.manual_seed(0)
    (signal, _), model = case("Al", 3), model_of(AnyCrystalNetwork(width=8))
    model.thresholds = {"crystal": 0.0, "score": 0.0}
    said, phases = [], [raw_phase("Al"), raw_phase("LiNiO2"), fcc("wide", 4.05 * 1.003)]
    with pytest.warns(UserWarning, match=r"Al and wide cannot be told apart.*0.3 %, .* 1 %.*one entry of the map") as w:
        xmap = pyxem_dl.predict_orientation(signal, model, phases=phases, on_message=said.append, **QUIET)
    assert len([each for each in w if "told apart" in str(each.message)]) == 1
    assert set(xmap.phases.names) <= {"Al or wide", "LiNiO2"} and "  Phases: Al or wide, LiNiO2" in said
    assert said[0].startswith("Looking for 2 phases")
    assert phases[0].name == "Al"


# ---------------------------------------------------------------- evidence
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_the_peaks_speak_for_the_crystal_that_makes_them(name):
    made = PatternSimulator([phase(name)], 200, 1.2, CLEAR, seed=5)(24)
    peaks = PeakPlaces.of(made.patterns.numpy(), made.calibration, None, None, 1.2)
    table = ReflectionTable.stack([reflections(phase(name), 1.2)], 200.0)
    turned = rotate_in_plane(made.rotations, torch.full((24,), 0.4))
    right, wrong = likelihood(peaks, table, torch.stack([made.rotations, turned], dim=1), 200.0, 1.2).T
    seen = peaks.count >= 3
    assert float((right > wrong)[seen].float().mean()) > 0.95
    assert float((right / peaks.count)[seen].median()) > 2 > 1 > float((wrong / peaks.count)[seen].median())
    share, chance = explained(peaks, table, made.rotations, 200.0, 1.2)
    assert float(share[seen].mean()) > 0.8 > 0.35 > float(chance[seen].mean())


def test_many_reflections_are_paid_for():
    """Of two crystals that explain the same peaks the one with more reflections is the less likely."""
    small = fcc("small", 4.05, element="Al")
    cells = [x / 2 + np.array(shift) / 2 for x in FCC for shift in np.ndindex(2, 2, 2)]
    atoms = [Atom("Al", x, occupancy=1.0 if i else 0.5) for i, x in enumerate(cells)]
    large = Phase("large", space_group=1, structure=Structure(atoms, Lattice(8.1, 8.1, 8.1, 90, 90, 90)))
    made = PatternSimulator(load_phases(small), 200, 1.2, CLEAR, seed=5)(16)
    peaks = PeakPlaces.of(made.patterns.numpy(), made.calibration, None, None, 1.2)
    of_small, of_large = (
        likelihood(peaks, ReflectionTable.stack([reflections(load_phases(p)[0], 1.2)], 200.0), made.rotations[:, None],
                   200.0, 1.2)[:, 0]
        for p in (small, large)
    )  # fmt: skip
    assert float((of_small > of_large).float().mean()) > 0.9


def test_nothing_speaks_for_orientations_without_spots_at_the_peaks():
    ky = torch.linspace(0.01, 0.03, 5)[None]
    peaks = PeakPlaces(torch.full((1, 5), 0.05), ky, torch.ones(1, 5, dtype=torch.bool))
    table = ReflectionTable.stack([reflections(phase("Al"), 1.2)], 200.0)
    said = likelihood(peaks, table, random_rotations(8)[None], 200.0, 1.2)
    assert said.numpy() == pytest.approx(5 * np.log(0.15), rel=1e-3)
    assert float(evidence(torch.full((1, 8), -3.0), said, peaks.count)) < 0


# ---------------------------------------------------------------- selection
def drawn(shares, n=200, k=8, seed=0):
    """Evidence of patterns of the first phases in these shares; the rest are none."""
    generator = np.random.default_rng(seed)
    evidence = generator.normal(-5, 1.5, (n, k))
    counts = [round(n * share) for share in shares]
    truth = np.repeat([*range(len(shares)), -1], [*counts, n - sum(counts)])
    for j in range(len(shares)):
        evidence[truth == j, j] += generator.normal(14, 2, (truth == j).sum())
    return evidence


def test_shares_of_phases_and_of_none():
    found = select(drawn((0.5, 0.2)))
    assert (found.probability > 0.99).tolist() == [True, True] + [False] * 6
    assert found.weight[:2] == pytest.approx([0.5, 0.2], abs=0.05) and found.none == pytest.approx(0.3, abs=0.05)
    assert found.probability[2:].max() < 0.1
    assert found.members[:100, 0].mean() > 0.9


def test_few_patterns_of_a_phase_are_enough_and_noise_is_not():
    assert select(drawn((0.9, 0.04))).probability[:2].min() > 0.9
    assert select(drawn(())).probability.max() < 0.1
    assert select(np.zeros((0, 4))).probability.tolist() == [0] * 4


def test_what_explains_the_same_shares_the_probability():
    evidence = drawn((0.6,))
    evidence[:, 3] = evidence[:, 0]
    found = select(evidence)
    assert found.probability[[0, 3]].sum() == pytest.approx(1, abs=0.1)
    assert found.probability[[0, 3]] == pytest.approx([0.5, 0.5], abs=0.1)


def test_the_sample_is_spread_and_drawn_again():
    taken = _spread(np.arange(10_000), 200, 0)
    assert len(set(taken.tolist())) == 200 and (np.diff(taken) > 0).all() and np.diff(taken).max() <= 100
    assert (taken == _spread(np.arange(10_000), 200, 0)).all() and (taken != _spread(np.arange(10_000), 200, 1)).any()
    assert _spread(np.array([3, 5]), 200, 0).tolist() == [3, 5]


# ---------------------------------------------------------------- the whole
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_the_right_phase_is_identified(name, capsys):
    signal, model = case(name, 12)
    signal.data = signal.data.reshape(12, *signal.data.shape[-2:])
    candidates = [raw_phase("MgO"), raw_phase("Al"), triclinic(), raw_phase("LiNiO2")]
    found = signal.identify_phases(candidates, model=model, **QUIET)
    assert [p.name for p in found.phases] == [name] and found.entries[0].probability > 0.9
    assert (found.n_patterns, found.n_faint) == (10, 2)
    best, *others = found.entries
    assert best.share > 0.9 and best.explained > 0.7 > 0.4 > best.chance and len(found) == 4
    assert all(entry.probability < 0.3 and entry.share == 0 and entry.explained < 0.5 for entry in others)
    assert f"| {name} " in str(found) and "2 more have fewer than three peaks" in str(found)
    assert "4 phases" in capsys.readouterr().out


def test_a_foreign_crystal_is_none_of_them():
    signal, model = case("LiNiO2")
    found = identify_phases(signal, [raw_phase("MgO"), raw_phase("Al"), raw_phase("Mg")], model=model, **QUIET)
    assert found.phases == [] and found.none == 1 and "Identified(none; of 3 candidates)" == repr(found)


def test_a_lazy_scan_and_a_mask_give_the_same():
    signal, model = case("Al")
    mask = np.zeros(10, bool)
    mask[:3] = True
    found = [identify_phases(s, [raw_phase("Al"), raw_phase("Mg")], model=model, navigation_mask=mask, **QUIET)
             for s in (signal, signal.as_lazy())]  # fmt: skip
    assert found[0].to_dict() == found[1].to_dict() and found[0].n_patterns == 7 and found[0].n_faint == 0


def test_one_entry_for_what_cannot_be_told_apart(tmp_path):
    signal, model = case("Al")
    with pytest.warns(UserWarning, match="Al and wide cannot be told apart"):
        found = identify_phases(signal, [raw_phase("Al"), fcc("wide", 4.06), raw_phase("Mg")], model=model, **QUIET)
    assert found.entries[0].name == "Al or wide" and len(found) == 2 and [p.name for p in found.phases] == ["Al"]
    assert "cells differ by 0.25 %" in str(found)
    path = found.save(tmp_path / "found.json")
    assert json.loads(path.read_text(encoding="utf-8"))["entries"][0]["phases"] == ["Al", "wide"]
    with pytest.raises(FileExistsError):
        found.save(path)
    with pytest.raises(ValueError, match=".json"):
        found.save(tmp_path / "found.txt")


def test_a_folder_of_cifs(tmp_path):
    pyxem_dl.structures([raw_phase("Al"), raw_phase("Mg")]).save(tmp_path / "cifs")
    signal, model = case("Al")
    found = identify_phases(signal, tmp_path / "cifs", model=model, **QUIET)
    assert [p.name for p in found.phases] == ["Al"] and len(found) == 2
    listed = identify_phases(signal, [str(tmp_path / "cifs"), raw_phase("MgO")], model=model, **QUIET)
    assert {p.name for entry in listed.entries for p in entry.phases} == {"Al", "Mg", "MgO"}


def test_vacuum_holds_no_phase():
    signal, model = case("Al")
    signal.data = np.random.default_rng(0).poisson(0.5, signal.data.shape).astype(float)
    with pytest.warns(UserWarning, match="None of 10 patterns has 3 peaks"):
        found = identify_phases(signal, [raw_phase("Al"), raw_phase("Mg")], model=model, **QUIET)
    assert found.phases == [] and found.n_patterns == 0 and "None of these phases was identified" in str(found)


def test_a_phase_without_reflections_is_left_out():
    structure = Structure([Atom("H", (0, 0, 0))], Lattice(1.7, 1.7, 1.7, 90, 90, 90))
    tiny = Phase("tiny", space_group=221, structure=structure)
    signal, model = case("Al")
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.offset = axis.scale * 0.45, axis.offset * 0.45
    with pytest.raises(ValueError, match="No phase is left to look for.*'tiny' has no reflection"):
        identify_phases(signal, tiny, model=model, **QUIET)
    with pytest.warns(UserWarning, match="tiny is left out.*no reflection"):
        found = identify_phases(signal, [raw_phase("Al"), tiny], model=model, **QUIET)
    assert list(found.left_out) == ["tiny"] and "tiny was left out" in str(found) and len(found) == 1


def test_bad_input():
    signal, model = case("Al", 3)
    al = raw_phase("Al")
    with pytest.raises(ValueError, match="No phase was given"):
        identify_phases(signal, [], model=model, **QUIET)
    with pytest.raises(ValueError, match="knows its own phases only"):
        identify_phases(signal, al, model="al-200kv", **QUIET)
    with pytest.raises(TypeError, match="n_patterns must be a whole number"):
        identify_phases(signal, al, model=model, n_patterns="many", **QUIET)
    calibration = Calibration.from_signal(signal)
    with pytest.raises(ValueError, match="no patterns|empty|shape"):
        identify_phases(make_signal(signal.data[:0], calibration, ""), al, model=model, **QUIET)
    with pytest.raises(ValueError, match="beam_energy="):
        unknown = pyxem_dl.data.polycrystal((2, 2), n_grains=1, pixels=64).signal
        del unknown.metadata.Acquisition_instrument.TEM.beam_energy
        identify_phases(unknown, al, model=model, **QUIET)


def test_of_many_phases_time_and_memory_are_said(capsys):
    signal, model = case("Al", 4)
    several = [fcc(f"fcc {i}", 3.3 * 1.04**i) for i in range(24)]
    found = identify_phases(signal, [*several, triclinic()], model=model, **QUIET)
    said = capsys.readouterr().out
    assert "25 phases" in said and re.search(r"One after another: about \d+ templates of \d+ reflections, about", said)
    assert re.search(r"for 2 patterns \(one core\); \d+ MiB of memory at a time", said)
    assert len(found) == 25 and "less likely ones" in str(found)


@pytest.mark.slow
@pytest.mark.skipif("any-crystal" not in pyxem_dl.list_models(), reason="the model is not bundled yet")
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_the_bundled_model_tells_twenty_crystals_apart(name):
    scan = pyxem_dl.data.polycrystal((6, 6), 1e5, phase=raw_phase(name), n_grains=8)
    others = list(pyxem_dl.structures("prototypes", 20, seed=1, exclude=raw_phase(name), max_atoms=40))
    found = identify_phases(scan.signal, [raw_phase(name), *others], **QUIET)
    assert str(found.entries[0].name).startswith(name)
    # patterns of aluminium have so few peaks that it is not sure enough yet, see the page
    assert [p.name for p in found.phases] in ([name], *([[]] if name == "Al" else []))


# ---------------------------------------------------------------- how the weights are found
def test_weights_are_those_that_tell_the_right_phase():
    """What says the truth gets weight, what says nothing gets none, and a foreign crystal is none of them."""
    generator = torch.Generator().manual_seed(0)
    n, truth = 600, torch.arange(600) % 4
    said = []
    for candidate in range(5):
        right = (truth == candidate).float()
        logits = 3 * right - 1.5 + torch.randn(n, generator=generator)
        nothing = torch.randn(n, generator=generator)
        said.append(Said(torch.zeros(n, 1, 4), logits[:, None], nothing[:, None]))
    n_peaks = torch.full((n,), 10.0)
    fitted = fitting._regression(said, truth, n_peaks, seed=0)
    assert fitted[0] > 1 and abs(fitted[1]) < 0.3 * fitted[0]
    speaks = torch.stack([evidence(s.logits, s.of_peaks, n_peaks, Weights(*fitted)) for s in said], dim=1)
    own = speaks.gather(1, truth[:, None])[:, 0]
    assert float((own > 0).float().mean()) > 0.75
    foreign = speaks.scatter(1, truth[:, None], -9.0).amax(1)
    assert float((foreign > 0).float().mean()) < 0.4


def test_weights_are_fitted_to_patterns_of_many_crystals(monkeypatch):
    crystals = [phase(name) for name in ("Al", "Mg", "MgO")]
    monkeypatch.setattr(fitting, "training_phases", lambda show_progressbar: crystals)
    monkeypatch.setattr(fitting, "_DRAWS", 200)
    torch.manual_seed(0)
    model = OrientationModel("any_crystal", AnyCrystalNetwork(8).eval(), PolarPreprocessing(1.5), [], name="small")
    weights = fit_evidence(model, n_crystals=2, n_others=1, n_patterns=12, reciprocal_radius=1.0)
    assert np.isfinite(weights).all() and weights.peaks > 0
