"""The disk detector as a model: its folder, its rescaling, and patterns that nobody can read."""

import pytest
import torch

from pyxem_dl.bragg_vectors.finders import ReciprocalSpace
from pyxem_dl.frames import Calibration
from pyxem_dl.models import BraggModel, load_model
from pyxem_dl.networks.fcunet import FCUNet

#: What a reader tells of diffracted disks alone
READ = ("excitation_error", "excitation_error_error", "phase", "phase_error")
READ_COLUMNS, READ_UNITS = ["v_g", "v_g_error", "q_z", "q_z_error"], ["V Å", "V Å", "1/Å", "1/Å"]


@pytest.fixture(scope="module", params=["real", "complex", "with a reader"])
def model(request):
    torch.manual_seed(0)
    has_reader = request.param == "with a reader"
    network = FCUNet(unet="real" if has_reader else request.param, widths=(8, 8, 8), reader=has_reader)
    # answers that depend on the pattern without any training
    torch.nn.init.normal_(network.heads.weight, std=0.5)
    with torch.no_grad():
        network.heads.bias[0] = -1.0
    return BraggModel("fcunet", network, domain={"disk_radius": [1.5, 40.0]}, name="small")


def probe(radius=5.0, size=33):
    at = torch.arange(float(size)) - size // 2
    disk = (torch.hypot(at[:, None], at[None]) < radius).float()
    return disk / disk.sum()


def patterns(n=11, size=70, seed=0):
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(10, 30, size)[:, None].expand(n, size, size)
    return torch.poisson(slope, generator)


def test_a_folder_gives_the_same_model(model, tmp_path):
    model.save(tmp_path / "small")
    back = load_model(tmp_path / "small")
    assert isinstance(back, BraggModel) and back.name == "small" and back.domain == model.domain
    back.verify(tmp_path / "small")
    with torch.no_grad():
        back.network.heads.bias += 1
    with pytest.raises(ValueError, match="stored predictions"):
        back.verify(tmp_path / "small")


@pytest.mark.parametrize("radius", [2.5, 5.0, 10.2])
def test_answers_do_not_depend_on_the_batch(model, radius):
    x = patterns(size=round(14 * radius))
    whole = model.predict_batch(x, probe(), radius, max_disks=20)
    parts = [model.predict_batch(part, probe(), radius, max_disks=20) for part in x.split(3)]
    for one, many in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(one, torch.cat(many), atol=0, rtol=0, equal_nan=True)
    there = whole.row[whole.confidence > 0]
    assert float(there.max()) < x.shape[1] and float(there.min()) > -0.5 - radius / 5


def test_what_nobody_can_read_has_no_disks(model):
    x = patterns(4)
    x[0], x[1], x[2, 3, 3] = 0, 7, torch.nan
    found = model.predict_batch(x, probe(), 5.0)
    assert found.confidence[:3].abs().max() == 0 and found.confidence[3].max() > 0
    assert all(bool(column.isfinite().all()) for name, column in found._asdict().items() if name not in READ)


def test_disks_under_the_mask_are_not_reported(model):
    mask = torch.zeros(70, 70, dtype=torch.bool)
    mask[:, 35:] = True
    found = model.predict_batch(patterns(3), probe(), 5.0, signal_mask=mask)
    assert bool((found.column[found.confidence > 0] < 35).all())


def test_other_disks_than_it_was_trained_for_are_warned_of(model):
    with pytest.warns(UserWarning, match=r"0\.9 px.*1\.5 to 40 px"):
        model.check_domain(0.9)


def test_predicted_vectors_are_like_matched_ones(model):
    import numpy as np
    from pyxem.signals import ElectronDiffraction2D

    from pyxem_dl.bragg_vectors import predict_bragg_vectors
    from pyxem_dl.patterns.probes import Probe

    signal = ElectronDiffraction2D(patterns(6).numpy().reshape(2, 3, 70, 70))
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.offset, axis.units = 0.02, -0.7, "$A^{-1}$"
    signal.set_experimental_parameters(beam_energy=200.0)
    whole = predict_bragg_vectors(signal, model, Probe.ideal(5.0), threshold=0.01, show_progressbar=False)
    assert list(whole.column_names) == ["ky", "kx", "intensity", "confidence", "position_error", *READ_COLUMNS]
    first = whole.data[0, 0]
    image = Probe.ideal(5.0).resampled(1.0).image
    half_range = ReciprocalSpace(Calibration((0.02, 0.02), (35.0, 35.0), (70, 70), 200.0)).half_range(5.0)
    found = model.predict_batch(patterns(6)[:1], image, 5.0, max_disks=200, least=0.00999, half_range=half_range)
    keep = found.confidence[0] > 0.01
    np.testing.assert_allclose(first[:, 0], (found.row[0, keep] - 35.0) * 0.02, atol=1e-4)
    np.testing.assert_allclose(first[:, 1], (found.column[0, keep] - 35.0) * 0.02, atol=1e-4)
    lazy = predict_bragg_vectors(
        signal.as_lazy(), model, Probe.ideal(5.0), threshold=0.01, lazy_output=True, show_progressbar=False
    )
    lazy.compute()
    np.testing.assert_allclose(lazy.data[1, 2], whole.data[1, 2], atol=1e-5)


def test_samples_with_dropout_tell_a_variance(model):
    x = patterns(4)
    once, drawn = (model.predict_batch(x, probe(), 5.0, max_disks=20, n_samples=n) for n in (0, 8))
    assert float(once.position_variance.max()) == float(once.confidence_variance.max()) == 0
    assert float(drawn.position_variance.min()) >= 0 and float(drawn.confidence_variance.max()) > 0
    # dropout goes off again
    again = model.predict_batch(x, probe(), 5.0, max_disks=20)
    torch.testing.assert_close(again.row, once.row)


def test_the_variance_is_a_column(model):
    from pyxem.signals import ElectronDiffraction2D

    from pyxem_dl.bragg_vectors import predict_bragg_vectors
    from pyxem_dl.patterns.probes import Probe

    signal = ElectronDiffraction2D(patterns(2).numpy())
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.offset, axis.units = 0.02, -0.7, "$A^{-1}$"
    signal.set_experimental_parameters(beam_energy=200.0)
    found = predict_bragg_vectors(
        signal, model, Probe.ideal(5.0), threshold=0.01, n_samples=4, show_progressbar=False
    )
    names = [*READ_COLUMNS, "position_variance", "confidence_variance"]
    assert list(found.column_names)[4:] == ["position_error", *names]
    units = ["$A^{-1}$", "$A^{-1}$", "a.u.", "a.u.", "$A^{-1}$", *READ_UNITS, "($A^{-1}$)^2", "a.u."]
    assert list(found.units) == units
    assert found.data[0].shape[1] == 11 and found.data[0][:, 9].max() > 0
    with pytest.raises(ValueError, match="n_samples must be a whole number of at least 0"):
        predict_bragg_vectors(signal, model, Probe.ideal(5.0), n_samples=-1)


@pytest.mark.parametrize("units, factor", [("1/nm", 10.0), ("mrad", 25.0793)])  # 1 Å⁻¹ is 25.0793 mrad at 200 kV
def test_errors_of_positions_are_in_the_unit_of_the_axes(model, units, factor):
    from pyxem.signals import ElectronDiffraction2D

    from pyxem_dl.bragg_vectors import predict_bragg_vectors
    from pyxem_dl.patterns.probes import Probe

    tables = []
    for unit, scale in (("1/Å", 1.0), (units, factor)):
        signal = ElectronDiffraction2D(patterns(2).numpy())
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.offset, axis.units = 0.02 * scale, -0.7 * scale, unit
        signal.set_experimental_parameters(beam_energy=200.0)
        settings = {"threshold": 0.01, "n_samples": 4, "show_progressbar": False}
        torch.manual_seed(0)
        found = predict_bragg_vectors(signal, model, Probe.ideal(5.0), **settings)
        assert list(found.units) == [unit, unit, "a.u.", "a.u.", unit, *READ_UNITS, f"({unit})^2", "a.u."]
        tables.append(found.data[0])
    one, other = tables
    assert len(one) == len(other) > 0 and one[:, 4].min() > 0
    for column in (0, 1, 4):
        torch.testing.assert_close(other[:, column], factor * one[:, column], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other[:, 9], factor**2 * one[:, 9], rtol=1e-4, atol=1e-6)
    # Å⁻¹ and V Å are what they are, whatever the axes are in
    torch.testing.assert_close(other[:, 5:9], one[:, 5:9], rtol=1e-3, atol=1e-3, equal_nan=True)


def test_the_unit_of_the_counts_does_not_matter(model):
    from pyxem.signals import ElectronDiffraction2D

    from pyxem_dl.bragg_vectors import predict_bragg_vectors
    from pyxem_dl.patterns.probes import Probe

    tables = []
    for gain in (1.0, 75.0):
        signal = ElectronDiffraction2D(gain * patterns(2).numpy())
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.offset, axis.units = 0.02, -0.7, "$A^{-1}$"
        signal.set_experimental_parameters(beam_energy=200.0)
        settings = {"threshold": 0.01, "max_peaks": 10, "show_progressbar": False}
        tables.append(predict_bragg_vectors(signal, model, Probe.ideal(5.0), **settings).data[0])
    one, many = (table[table[:, 3].argsort()[::-1]][:5] for table in tables)
    # estimated to a few percent, and so are the confidences of an untrained network
    assert many[:, 3] == pytest.approx(one[:, 3], abs=0.1)


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])  # a trigonal crystal, too
def test_reciprocal_space_is_that_of_the_crystal(name):
    from sample_phases import phase as sample_phase

    from pyxem_dl.crystals import near_ewald_sphere, reflections
    from pyxem_dl.electrons import electron_wavelength
    from pyxem_dl.frames import k_to_pixel
    from pyxem_dl.networks.fcunet import Disks
    from pyxem_dl.rotations import random_rotations
    from pyxem_dl.simulation.many_beam import ManyBeam

    phase = sample_phase(name)
    crystal, thickness = reflections(phase, 1.0), 150.0
    rotation = random_rotations(1, torch.Generator().manual_seed(3))
    lab, error, near = near_ewald_sphere(crystal.g, rotation, electron_wavelength(200.0), 0.05)
    g, error = lab[0][near[0]], error[near]
    calibration = Calibration((0.02, 0.02), (60.0, 61.0), (128, 128), 200.0)
    row, column = k_to_pixel(g[:, 0], g[:, 1], calibration)
    phases = torch.pi * thickness / crystal.extinction_distance(200.0)[near[0]]
    zero = torch.zeros_like(row)
    disks = Disks(*(x[None] for x in (row, column, *[zero] * 5, error, zero + 0.001, phases, zero)))
    v_g, _, q_z, q_z_error = ReciprocalSpace(calibration).columns(disks, torch.tensor(calibration.center))
    assert len(error) > 3 and float(error.min()) < 0 < float(error.max())
    torch.testing.assert_close(q_z[0], g[:, 2], atol=2e-6, rtol=0)
    assert q_z_error[0].tolist() == pytest.approx([0.001] * len(error))
    volts = abs(ManyBeam(phase, 200.0, 1.0, debye_waller=0.0).potential(crystal.hkl[near[0].numpy()]))
    torch.testing.assert_close(v_g[0], torch.as_tensor(volts * thickness, dtype=torch.float32), rtol=1e-3, atol=0.01)


def test_an_orientation_model_is_no_detector():
    from fake_network import make_model

    from pyxem_dl.bragg_vectors import predict_bragg_vectors

    with pytest.raises(TypeError, match="predicts orientations, not disks"):
        predict_bragg_vectors(None, make_model())


def test_a_detector_is_no_orientation_model(model):
    from pyxem_dl import predict_orientation

    with pytest.raises(TypeError, match="does not predict orientations"):
        predict_orientation(None, model)
