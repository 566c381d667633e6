"""Labelled scans: what is trained on and held out, batches of both, and what they tell of the microscope."""

import dataclasses

import numpy as np
import pytest
import torch
from orix.quaternion import Rotation

from pyxem_dl import data, load_model, metrics, predict_orientation, training
from pyxem_dl.frames import Calibration, other_frame_quaternion
from pyxem_dl.preprocessing import CartesianPreprocessing
from pyxem_dl.results.labels import Labels, hold_out_region
from pyxem_dl.scans import make_signal
from pyxem_dl.training import scans
from pyxem_dl.training.configuration import LabelledConfiguration
from pyxem_dl.training.labelled_crystals import CountedPatterns, NamedLabels


def test_batches_are_divided_among_processes(polycrystal, monkeypatch):
    configuration = LabelledConfiguration(max_steps=3, batch_size=8, reciprocal_radius=1.0, turn=180.0)
    scan = scans.LabelledScan(polycrystal.signal, polycrystal.truth, configuration, 0, 1)
    preprocessing = CartesianPreprocessing(1.0, size=32)

    def batch(rank, world):
        monkeypatch.setattr(scans, "place_among_processes", lambda: (rank, world))
        return scans.LabelledBatches([scan], preprocessing, configuration, "cpu").make()

    whole, first, second = batch(0, 1), batch(0, 2), batch(1, 2)
    for all_of_it, a, b in zip(whole, first, second, strict=True):
        torch.testing.assert_close(all_of_it[0::2], a)
        torch.testing.assert_close(all_of_it[1::2], b)


def test_labels_are_turned_with_their_patterns(tmp_path):
    """A network is as right on turned and mirrored patterns as on those that were measured."""
    scan = data.polycrystal((10, 12), 1e6, n_grains=5, phase=data.lithium_nickel_oxide(), seed=2)
    configuration = LabelledConfiguration(batch_size=24, reciprocal_radius=1.0, turn=180.0)
    one = scans.LabelledScan(scan.signal, scan.truth, configuration, 0, 1)
    model = load_model("linio2-200kv")
    batches = NamedLabels(model.network, [one], model.preprocessing, configuration, "cpu")
    drawn = np.arange(batches.n_patterns)
    generator = torch.Generator().manual_seed(0)
    right = []
    for turn, mirrored in (
        (torch.zeros(len(drawn)), torch.zeros(len(drawn), dtype=torch.bool)),
        (6.28 * torch.rand(len(drawn), generator=generator), torch.rand(len(drawn), generator=generator) < 0.5),
    ):
        inputs, rotations, phase_id = batches.turned(drawn, turn, mirrored)
        with torch.inference_mode():
            found = model.network.predict(CountedPatterns.apart(inputs), 1)
        angle = metrics.disorientation(found.rotations[:, 0], rotations, model.phases[0])
        right.append(np.mean(angle[phase_id.numpy() >= 0] < 3))
    assert right[0] > 0.5
    assert right[1] > right[0] - 0.15


def test_nothing_of_a_region_that_is_held_out_is_trained_on(polycrystal):
    xmap = polycrystal.truth.deepcopy()
    xmap._phase_id[::3] = -1
    (scan,) = scans.read_scans([(polycrystal.signal, xmap)], LabelledConfiguration())
    held_out, border = hold_out_region(xmap.shape, xmap._phase_id >= 0, 0.2)
    assert not (held_out | border)[np.concatenate([scan.train, scan.random])].any()
    assert set(scan.phase_id[scan.region]) == {-1, 0}  # crystals are not all that validation asks for


def test_scans_that_nothing_can_be_learnt_of_are_refused(polycrystal):
    with pytest.raises(ValueError, match="holds out no label"):
        scans.read_scans([tuple(polycrystal)], LabelledConfiguration(split="random", validation_share=1e-6))
    moved = polycrystal.signal.deepcopy()
    for axis in moved.axes_manager.signal_axes:
        axis.offset = axis.scale
    with pytest.raises(ValueError, match="is outside of the detector"):
        scans.read_scans([(moved, polycrystal.truth)], LabelledConfiguration())


def test_patterns_are_simulated_with_the_scale_that_the_labels_show(polycrystal, capsys):
    from pyxem_dl.simulation import SimulationSettings
    from pyxem_dl.training.microscope import Microscope

    right = Calibration.from_signal(polycrystal.signal)
    wrong = dataclasses.replace(right, scale=(1.05 * right.scale[0], 1.03 * right.scale[1]))
    signal = make_signal(polycrystal.signal.data, wrong, "scan of a wrong scale")
    phases = [data.lithium_nickel_oxide()]
    (scan,) = scans.read_scans([(signal, polycrystal.truth)], LabelledConfiguration())
    scan.number_phases(phases)
    own = SimulationSettings(scale_error=(-0.03, -0.01), background=(1e-4, 1e-3), overlap_share=0.5)
    found = Microscope.of([scan], phases, 1.2)
    assert found.scale_factor(own) == pytest.approx(0.98 / 1.04, abs=0.003)
    measured = found.simulation(own, 1.2)
    assert np.mean(measured.scale_error) == pytest.approx(0.04, abs=0.003)
    assert np.mean(measured.ellipticity) == pytest.approx(0.01, abs=0.004)
    relative = found.background.item() / (1 - found.background.item())
    assert measured.background == pytest.approx((relative / 6, min(6 * max(relative, 0.1), 10)))
    assert measured.overlap_share == 0.5
    assert "off by +4." in capsys.readouterr().out
    scan.train = scan.train[:1]
    assert Microscope.of([scan], phases, 1.2) is None
    said = capsys.readouterr().out
    assert "microscope cannot be measured in one of the scans" in said and "that of the model's training" in said


def test_patterns_are_simulated_with_the_disks_and_the_dose_of_the_scan(polycrystal):
    from pyxem_dl.simulation import SimulationSettings
    from pyxem_dl.training.microscope import Microscope

    phases, own = [data.lithium_nickel_oxide()], SimulationSettings()
    measured = {}
    for counts_of_an_electron in (1, 7):
        patterns = polycrystal.signal.data.astype(np.float32) * counts_of_an_electron
        signal = make_signal(patterns, Calibration.from_signal(polycrystal.signal), "scan")
        (scan,) = scans.read_scans([(signal, polycrystal.truth)], LabelledConfiguration())
        scan.number_phases(phases)
        measured[counts_of_an_electron] = found = Microscope.of([scan], phases, 1.0)
    assert found.electrons == pytest.approx(measured[1].electrons, rel=0.2)
    beside = polycrystal.signal.data.astype(float)
    beside[..., 29:36, 29:36] = 0  # the direct beam
    totals = beside.sum((2, 3)).ravel()[scan.train]
    assert found.electrons[0] == pytest.approx(np.quantile(totals, (0.05, 0.95)), rel=0.3)
    # of 2 · 10⁴ electrons halo, film and floor have 2,600 to 6,000
    assert 0.2 < found.background.item() < 0.8
    # the disks' radius is one pixel: an edge is hardly seen
    assert found.disk_radius == pytest.approx(1e-3 / Calibration.from_signal(signal).wavelength, rel=0.3)
    settings = found.simulation(own, 1.0)
    assert settings.electrons == pytest.approx((found.electrons.min() / 10, found.electrons.max()))
    # a pedestal of the camera counts as electrons: such a dose is not believed
    absurd = found._replace(electrons=np.array([[1e8, 2e8]])).simulation(own, 1.0)
    assert absurd.electrons == own.electrons
    assert found._replace(disk_radius=np.array([0.2])).simulation(own, 1.0).disk_radius == own.disk_radius
    assert settings.disk_radius[0] < found.disk_radius.item() < settings.disk_radius[1] < own.disk_radius[1]
    # of a detector that reaches 1.25 Å⁻¹ no more than to 1.25 times what the model looks at, here all
    assert settings.pixels == (round(settings.coverage[1] / 1.01 / 1.25 * found.pixels.item()),)
    assert settings.coverage[1] == pytest.approx(1.25 * 1.01, rel=0.02)
    unknown = found._replace(electrons=np.full((1, 2), np.nan), disk_radius=np.array([np.nan])).simulation(own, 1.0)
    assert unknown.electrons == own.electrons and unknown.disk_radius == own.disk_radius
    signed = make_signal(patterns - 1, Calibration.from_signal(polycrystal.signal), "read out with noise")
    (scan,) = scans.read_scans([(signed, polycrystal.truth)], LabelledConfiguration())
    scan.number_phases(phases)
    assert np.isnan(Microscope.of([scan], phases, 1.0).electrons).all()
    spots = found._replace(disk_radius=np.array([0.0])).simulation(own, 1.0)
    assert spots.disk_radius == (own.disk_radius[0], pytest.approx(1.2 * 2.5 / found.pixels.item()))


@pytest.mark.parametrize("electrons", [2_000, 100_000])
def test_the_background_is_seen_between_spots(electrons, rng):
    """It has half of the electrons, 20 spots in each pattern have the others."""
    from pyxem_dl.training.microscope import _background

    expected = np.full((32, 128, 128), 0.5 * electrons / 128**2)
    for pattern in expected:
        pattern[tuple(rng.integers(0, 128, (2, 20)))] += 0.5 * electrons / 20
    k = np.hypot(*(np.indices((128, 128)) - 64))
    found = _background(rng.poisson(expected), k > 4, k.astype(int))
    assert found == pytest.approx(0.5, abs=0.1)
    assert np.isnan(_background(rng.poisson(1e-3 * expected), k > 4, k.astype(int)))


def test_labels_in_another_frame_are_brought_into_ours(polycrystal):
    theirs = polycrystal.truth.deepcopy()
    theirs._rotations = theirs._rotations * ~Rotation(other_frame_quaternion(90.0, True))
    configuration = LabelledConfiguration(label_frame={"turn": 90.0, "flipped": True})
    scan = scans.LabelledScan(polycrystal.signal, theirs, configuration, 0, 1)
    angle = metrics.disorientation(scan.labels.rotations, polycrystal.truth.rotations, data.lithium_nickel_oxide())
    assert angle.max() < 0.01


def test_given_phases_complete_labels_without_symmetry(polycrystal):
    from orix.crystal_map import Phase, PhaseList

    bare = polycrystal.truth.deepcopy()
    phases = PhaseList(ids=[0], phases=[Phase("unknown")])
    phases.add_not_indexed()
    bare.phases = phases
    pair, configuration = (polycrystal.signal, bare), LabelledConfiguration()
    with pytest.raises(ValueError, match="has no point group: set it in the map, or give `phases`"):
        scans.read_scans([pair], configuration)
    (scan,) = scans.read_scans([pair], configuration, [data.lithium_nickel_oxide()])
    assert scan.labels.phases[0].point_group.name == "-3m"


def test_simulated_batches_differ_among_processes(monkeypatch):
    from pyxem_dl.training.configuration import TrainingConfiguration

    def batch(rank, world):
        configuration = TrainingConfiguration(
            beam_energy=200.0, reciprocal_radius=1.0, batch_size=64,
            network={"width": 16, "depth": 1, "kernel": 9, "resolution": 10.0},
        )  # fmt: skip
        monkeypatch.setattr(training.learning, "place_among_processes", lambda: (rank, world))
        monkeypatch.setattr(training.learning, "VALIDATION_PATTERNS", 32)
        _, batches, _ = training.orientation._ingredients([data.aluminium()], configuration, torch.device("cpu"))
        return next(iter(batches))[1]

    alone, first, second = batch(0, 1), batch(0, 2), batch(1, 2)
    assert len(alone) == 64 and len(first) == len(second) == 32
    assert not torch.allclose(first, second)


# ---------------------------------------------------------------- bad input


def test_one_split_is_by_scans(polycrystal):
    configuration = LabelledConfiguration(split="scan")
    first, last = (scans.LabelledScan(*polycrystal, configuration, i, 2) for i in range(2))
    assert len(first.train) and not len(first.region)
    assert len(last.region) and not len(last.train)


def test_the_truth_of_the_polycrystal_is_that_of_its_patterns(polycrystal):
    labels = Labels.from_map(polycrystal.truth)
    assert (labels.phase_id == -1).sum() == 14
    fine = data.polycrystal((6, 8), 1e6, n_grains=2, phase=data.aluminium())
    xmap = predict_orientation(fine.signal, "al-200kv", show_progressbar=False)
    angle = metrics.disorientation(xmap, fine.truth, modulo_180=True)
    alone = (fine.truth.phase_id >= 0) & (fine.truth.prop["overlap"] < 0.1)
    assert np.mean(angle[alone] < 3) > 0.3  # by chance below 0.01; thin aluminium shows few spots
