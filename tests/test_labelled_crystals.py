"""Networks that take any crystal, fine-tuned to labelled scans."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from diffpy.structure import Structure
from sample_phases import phase, raw_phase
from typer.testing import CliRunner

import pyxem_dl
from pyxem_dl import __main__ as command_line, data, metrics
from pyxem_dl.frames import Calibration
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.preprocessing import PolarPreprocessing, in_electrons
from pyxem_dl.results.maps import save_map
from pyxem_dl.scans import make_signal
from pyxem_dl.training import any_crystal, labelled_crystals, scans, specialist
from pyxem_dl.training.configuration import LabelledConfiguration
from pyxem_dl.training.crystal_batches import NamedPatterns

QUICK = {"show_progressbar": False, "device": "cpu", "max_steps": 3, "batch_size": 8}


@pytest.fixture(autouse=True)
def few_patterns(monkeypatch):
    monkeypatch.setattr(specialist, "_VALIDATION_SETUPS", 1)
    monkeypatch.setattr(specialist, "_VALIDATION_OTHERS", 1)
    monkeypatch.setattr(specialist, "_VALIDATION_PATTERNS", 32)
    monkeypatch.setattr(labelled_crystals, "training_phases", lambda show_progressbar: [phase("Mg"), phase("MgO")])


@pytest.fixture(scope="module")
def files(polycrystal, tmp_path_factory):
    """A scan and its labels as files."""
    folder = tmp_path_factory.mktemp("scan")
    polycrystal.signal.save(folder / "scan.hspy")
    save_map(folder / "labels.h5", polycrystal.truth)
    return folder / "scan.hspy", folder / "labels.h5"


def off_by(scan, factor):
    """The signal of a scan with a scale that is wrong by a factor."""
    right = Calibration.from_signal(scan.signal)
    wrong = dataclasses.replace(right, scale=tuple(factor * s for s in right.scale))
    return make_signal(scan.signal.data, wrong, "off")


def right_share(xmap, truth, here):
    """Share of what is there and within 2 degrees modulo 180."""
    here = here & (truth.phase_id >= 0)
    return np.mean(metrics.disorientation(xmap, truth, modulo_180=True)[here] < 2)


# ---------------------------------------------------------------- batches
@pytest.mark.parametrize("counts", [1, 7])
def test_labelled_patterns_are_made_as_a_prediction_makes_them(counts, polycrystal):
    """Also where the detector writes seven counts for an electron."""
    calibration = Calibration.from_signal(polycrystal.signal)
    signal = make_signal(polycrystal.signal.data.astype(np.float32) * counts, calibration, "scan")
    (scan,) = scans.read_scans([(signal, polycrystal.truth)], LabelledConfiguration())
    grid = PolarPreprocessing(1.2, n_k=52)
    patterns = scan.patterns(scan.train[:5])[0]
    made = labelled_crystals.CountedPatterns(grid)
    inputs = made.apart(scans.preprocess(scan, patterns, made, torch.device("cpu")))
    expected = grid.counted(in_electrons(torch.from_numpy(patterns), float(counts)), calibration)
    for found, each in zip(inputs, expected, strict=True):
        torch.testing.assert_close(found, each.expand_as(found))


@pytest.mark.parametrize("material", ["Al", "LiNiO2"])
def test_labels_are_turned_and_mirrored_with_their_patterns(material):
    scan = data.polycrystal((10, 12), 1e5, n_grains=5, pixels=64, phase=raw_phase(material), seed=2)
    configuration = LabelledConfiguration(batch_size=24, turn=180.0)
    one = scans.LabelledScan(scan.signal, scan.truth, configuration, 0, 1)
    model = labelled_crystals.looking_for(load_model("any-crystal"), [raw_phase(material)], [one])
    batches = labelled_crystals.NamedLabels(model.network, [one], model.preprocessing, configuration, "cpu")
    drawn, generator = np.arange(batches.n_patterns), torch.Generator().manual_seed(0)
    right = []
    for turn, mirrored in (
        (torch.zeros(len(drawn)), torch.zeros(len(drawn), dtype=torch.bool)),
        (6.28 * torch.rand(len(drawn), generator=generator), torch.rand(len(drawn), generator=generator) < 0.5),
    ):
        inputs, rotations, phase_id = batches.turned(drawn, turn, mirrored)
        with torch.inference_mode():
            found = model.network.predict(batches.preprocessing.apart(inputs), 1)
        angle = metrics.disorientation(found.rotations[:, 0], rotations, model.phases[0], modulo_180=True)
        right.append(np.mean(angle[phase_id.numpy() >= 0] < 3))
    assert right[0] > 0.4  # by chance 0.01; grains overlap
    assert right[1] > right[0] - 0.1


def test_another_phase_is_wrong_whatever_its_orientation():
    network = AnyCrystalNetwork(16).with_phases([phase("Al"), phase("MgO")], 200.0, PolarPreprocessing(1.2, n_k=52))
    rotations = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4)
    patterns = NamedPatterns(network, (), rotations, torch.tensor([0, 0]))
    found = OrientationCandidates(rotations[:, None], torch.tensor([[0], [1]]), torch.ones(2, 1), torch.ones(2))
    assert any_crystal.compared(patterns, found)[0].tolist() == pytest.approx([0, 180], abs=0.1)


# ---------------------------------------------------------------- models
@pytest.mark.parametrize("material", [pytest.param("Al", marks=pytest.mark.slow), "LiNiO2"])
def test_a_wrong_scale_is_learnt_from_a_part_of_the_scan(material, tmp_path):
    scan = data.polycrystal((14, 16), 2e4, n_grains=12, pixels=64, phase=raw_phase(material), seed=1)
    signal, first = off_by(scan, 1.06), np.arange(scan.truth.size) % 16 < 8
    labels = scan.truth.deepcopy()
    labels.is_in_data = first
    before = pyxem_dl.predict_orientation(signal, phases=raw_phase(material), show_progressbar=False)
    model = pyxem_dl.finetune("any-crystal", [(signal, labels)], output=tmp_path / "m", **QUICK)
    assert model.preprocessing.scale_factor == pytest.approx(1 / 1.06, abs=0.005)
    after = pyxem_dl.predict_orientation(signal, tmp_path / "m", show_progressbar=False)
    assert right_share(after, scan.truth, ~first) > right_share(before, scan.truth, ~first) + 0.1
    # a scan of another camera length is looked at as far as it reaches, and its scale is taken for as wrong
    other = signal.inav[:4, :3].isig[8:-8, 8:-8]
    assert pyxem_dl.predict_orientation(other, model, show_progressbar=False).size == 12


def test_the_model_is_a_folder_as_the_others(polycrystal, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = load_model("any-crystal")
    model = pyxem_dl.finetune("any-crystal", [tuple(polycrystal)], **QUICK)
    folder = tmp_path / "any-crystal-tuned"
    load_model(folder).verify(folder)
    assert [p.name for p in model.phases] == ["LiNiO2"] and model.takes_phases
    assert model.training["simulated_share"] == 0.85 and model.training["first_training"] == first.training
    # of the few patterns without a crystal here the network may be certain that they have none
    assert 0 < model.thresholds["crystal"] < 1 and 0 <= model.thresholds["score"] < 1
    assert model.preprocessing.to_dict() == first.preprocessing.to_dict() | {
        "scale_factor": model.preprocessing.scale_factor
    }
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "network `any_crystal`" in card and "held out by region" in card and "200 kV" in card
    assert not (folder / "checkpoint").exists() and "distances from the beam are off by" in capsys.readouterr().out
    with open(folder / "training_log.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert 0 <= float(last["within_5_strict"]) <= 1 and 0 <= float(last["random_within_5_strict"]) <= 1
    before, after = first.network.state_dict(), model.network.state_dict()
    assert 0 < max(float((before[k].float() - after[k].float()).abs().max()) for k in before) < 0.1
    assert before.keys() == load_model("any-crystal").network.state_dict().keys()
    # energies beyond those of the first training are still doubted
    far = Calibration.from_signal(polycrystal.signal).replace(beam_energy=400.0)
    with pytest.warns(UserWarning, match="400 kV.*trained at 60 to 300"):
        model.with_phases(model.phases, 400, 1.2).check_domain(far)


@pytest.mark.slow
def test_a_specialist_is_adapted_and_adapted_again(polycrystal, tmp_path, monkeypatch):
    monkeypatch.setattr(specialist, "training_phases", labelled_crystals.training_phases)
    quick = {name: QUICK[name] for name in ("show_progressbar", "device")} | {"max_steps": 2, "crystals_at_once": 2}
    first = pyxem_dl.train(raw_phase("LiNiO2"), beam_energy=200, output=tmp_path / "mine", **quick)
    model = pyxem_dl.finetune(tmp_path / "mine", [tuple(polycrystal)], output=tmp_path / "tuned", **QUICK)
    again = pyxem_dl.finetune(tmp_path / "tuned", [tuple(polycrystal)], output=tmp_path / "again", **QUICK)
    assert first.training == model.training["first_training"] == again.training["first_training"]
    assert again.preprocessing.scale_factor == model.preprocessing.scale_factor != 1
    with pytest.raises(ValueError, match="'mine' has its phases"):
        pyxem_dl.finetune(first, [tuple(polycrystal)], phases=raw_phase("LiNiO2"), output=tmp_path / "x", **QUICK)
    other = polycrystal.truth.deepcopy()
    other.phases[0].name, other.phases[0].point_group = "Al", "m-3m"
    with pytest.raises(ValueError, match="Laue group m-3m in the labels, but -3m"):
        pyxem_dl.finetune(first, [(polycrystal.signal, other)], output=tmp_path / "x", **QUICK)


def test_without_simulated_patterns_no_threshold_of_the_score_is_known(polycrystal, tmp_path):
    model = pyxem_dl.finetune("any-crystal", [tuple(polycrystal)], simulated_share=0, output=tmp_path / "m", **QUICK)
    assert model.thresholds == {"crystal": load_model("any-crystal").thresholds["crystal"]}
    # what is not trained on simulated patterns is not adapted with such, either
    torch.manual_seed(0)
    bare = OrientationModel("any_crystal", AnyCrystalNetwork(16).eval(), PolarPreprocessing(1.5), [], name="bare")
    model = pyxem_dl.finetune(bare, [tuple(polycrystal)], output=tmp_path / "b", **QUICK)
    assert model.training["simulated_share"] == 0
    with pytest.raises(ValueError, match="not trained on simulated patterns: use simulated_share=0"):
        pyxem_dl.finetune(bare, [tuple(polycrystal)], simulated_share=0.5, output=tmp_path / "c", **QUICK)


def test_an_interrupted_adaptation_goes_on(polycrystal, tmp_path, monkeypatch):
    step = any_crystal.AnyCrystalTraining.training_step

    def interrupt(self, batch, index):
        if index == 2:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(any_crystal.AnyCrystalTraining, "training_step", interrupt)
    settings = QUICK | {"max_steps": 5, "simulated_share": 0.0, "output": tmp_path / "m"}
    with pytest.raises(KeyboardInterrupt, match="repeat the call to continue"):
        pyxem_dl.finetune("any-crystal", [tuple(polycrystal)], **settings)
    monkeypatch.setattr(any_crystal.AnyCrystalTraining, "training_step", step)
    with pytest.raises(ValueError, match="settings or labels"):
        pyxem_dl.finetune("any-crystal", [tuple(polycrystal)], **settings | {"seed": 1})
    model = pyxem_dl.finetune("any-crystal", [tuple(polycrystal)], **settings)
    assert model.provenance["stages"][0]["patterns"] == 5 * 8


def test_labels_without_atoms_need_the_structure(files, tmp_path):
    scan, labels = files
    bare = pyxem_dl.results.read_labels(labels)
    phase = bare.phases[0]
    phase.space_group, phase.point_group, phase.structure = None, "-3m", Structure(lattice=phase.structure.lattice)
    with pytest.raises(ValueError, match="'any-crystal' looks for.*LiNiO2 of the labels.*phases='my.cif'"):
        pyxem_dl.finetune("any-crystal", [(scan, bare)], output=tmp_path / "m", **QUICK)
    save_map(tmp_path / "bare.h5", bare)
    pyxem_dl.structures([raw_phase("LiNiO2")]).save(tmp_path / "cifs")
    (cif,) = (tmp_path / "cifs").glob("*.cif")
    result = CliRunner().invoke(command_line.app, [str(a) for a in (
        "finetune", "any-crystal", "--labelled", f"{scan}:{tmp_path / 'bare.h5'}", "--phase", cif, "--output",
        tmp_path / "m", "--device", "cpu", "--no-progress", "--set", "max_steps=2", "--set", "simulated_share=0",
    )])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(load_model(tmp_path / "m").phases[0].structure) == 12


def test_what_does_not_go_together_is_said(polycrystal, tmp_path):
    signal, truth = polycrystal
    with pytest.raises(ValueError, match="learns on one device"):
        pyxem_dl.finetune("any-crystal", [(signal, truth)], output=tmp_path, devices=2, **QUICK)
    with pytest.raises(ValueError, match="'linio2-200kv' has its phases"):
        pyxem_dl.finetune("linio2-200kv", [(signal, truth)], phases=raw_phase("LiNiO2"), output=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="reciprocal_radius cannot be changed"):
        pyxem_dl.finetune("any-crystal", [(signal, truth)], reciprocal_radius=1.0, output=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="Laue group -3m in the labels, but m-3m"):
        pyxem_dl.finetune("any-crystal", [(signal, truth)], phases=raw_phase("Al"), output=tmp_path, **QUICK)
    unknown = make_signal(signal.data, Calibration.from_signal(signal).replace(beam_energy=None), "no energy")
    with pytest.raises(ValueError, match="beam energy of the scan is not known"):
        pyxem_dl.finetune("any-crystal", [(unknown, truth)], output=tmp_path, **QUICK)
