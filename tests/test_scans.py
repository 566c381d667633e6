"""What a sample of patterns says: pixels that are always wrong, where the beam is; and no scale of intensities."""

import dask.array as da
import numpy as np
import pytest
import torch
from pyxem.signals import Diffraction2D

import pyxem_dl
from pyxem_dl.bragg_vectors import match_disks, predict_bragg_vectors
from pyxem_dl.electrons import read_beam_energy
from pyxem_dl.frames import Calibration
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.preprocessing import usable_patterns
from pyxem_dl.scans import Scan, find_beam, inspect_pixels, make_signal, read_sample

SHAPE = (96, 100)
CENTER = (47.3, 50.6)
QUIET = {"device": "cpu", "show_progressbar": False}


def disk(center, radius, shape=SHAPE):
    row, column = np.ogrid[: shape[0], : shape[1]]
    return np.clip(radius + 0.5 - np.hypot(row - center[0], column - center[1]), 0, 1)


def crystals(rng, n=32, radius=3.0, centers=CENTER, beam=30.0, electrons=2e4, shape=SHAPE):
    """Patterns of crystals in all orientations: lattices of disks that fade outwards, and a halo."""
    row, column = np.indices(shape)
    images = []
    for center in np.broadcast_to(centers, (n, 2)):
        spacing = rng.uniform(3.2, 5) * radius + 4
        angle, tilt = rng.uniform(0, np.pi), rng.normal(0, 1.0, 2)
        a = spacing * np.array([np.cos(angle), np.sin(angle)])
        b = spacing * rng.uniform(0.9, 1.3) * np.array([-np.sin(angle), np.cos(angle)])
        image = beam * disk(center, radius, shape)
        image += 0.3 * np.exp(-((row - center[0]) ** 2 + (column - center[1]) ** 2) / (2 * (5 * radius) ** 2))
        for i in range(-4, 5):
            for j in range(-4, 5):
                at = center + i * a + j * b
                if (i or j) and (at > -radius).all() and (at < np.add(shape, radius)).all():
                    far = np.hypot(*(i * a + j * b + tilt * spacing)) / (3 * spacing)
                    image += 6 * np.exp(-(far**2)) * rng.uniform(0.1, 1) * disk(at, radius, shape)
        images.append(image / image.sum())
    return rng.poisson(electrons * np.array(images)).astype(np.float32)


def found_beam(patterns, nominal=CENTER, mask=None, shape=(4, 8)):
    return find_beam(patterns, np.arange(len(patterns)), shape, nominal, mask)


def signal_of(patterns, center=CENTER, scale=0.02):
    calibration = Calibration((scale, scale), center, patterns.shape[-2:], 200.0)
    return make_signal(patterns, calibration, "test")


# ------------------------------------------------------------------ the sample
@pytest.mark.parametrize("chunks", [(1, 1, 8, 8), (7, 40, 8, 8), (3, 5, 4, 8), -1])
def test_the_sample_is_the_same_for_any_chunks(rng, chunks):
    data = rng.integers(0, 99, (23, 40, 8, 8)).astype("uint16")
    mask = rng.random(920) < 0.3
    expected, found = read_sample(data, mask), read_sample(da.from_array(data, chunks=chunks), mask)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.patterns, expected.patterns)
    np.testing.assert_array_equal(expected.patterns, data.reshape(920, 8, 8)[expected.indices])
    assert len(expected.indices) == 64 and not mask[expected.indices].any()
    assert (np.diff(expected.indices) > 0).all() and expected.indices[-1] > 850


# ------------------------------------------------------------------ pixels
def spoil(patterns, kind):
    """Spoil pixels in every pattern; return which."""
    bad = np.zeros(SHAPE, bool)
    if kind == "hot":
        bad[20, 30] = bad[70, 60] = bad[70, 61] = True
        patterns[:, bad] = 6e4
    elif kind == "noisy hot":
        bad[20, 30] = True
        patterns[:, 20, 30] += np.random.default_rng(0).poisson(400, len(patterns))
    elif kind == "nan":
        bad[46:48], bad[:, 50] = True, True
        patterns[:, bad] = np.nan
    elif kind == "inf":
        bad[3, 5], bad[60, 7] = True, True
        patterns[:, 3, 5], patterns[:, 60, 7] = np.inf, -np.inf
    elif kind == "gap":
        bad[46:49], bad[:, 49:52] = True, True
        patterns[:, bad] = 0
    elif kind == "metadata":
        bad[-2:] = True
        patterns[:, -2], patterns[:, -1] = 7e4, 0
        patterns[:, -1, :20] = -3.2e6
    elif kind == "counters":
        bad[-1:] = True
        patterns[:, -1] = 0
        patterns[:, -1, :3] = 1e7 + np.arange(3 * len(patterns)).reshape(-1, 3)
    elif kind == "bright column":
        bad[:, 70] = bad[:48, 20] = True
        patterns[:, bad] += 40
    elif kind == "marked gap":
        bad[60:63], bad[:, 30:33] = True, True
        patterns[:, bad] = 2.0**32 - 1
    elif kind == "largest number":
        bad[20, 30] = bad[60, 7] = True
        patterns[:, bad] = 3.4e38
    elif kind == "hot in half":
        bad[20, 30] = True
        patterns[::2, bad] = 6e4
    return bad


KINDS = ["hot", "noisy hot", "nan", "inf", "gap", "metadata", "counters"]
KINDS += ["bright column", "marked gap", "largest number", "hot in half"]


@pytest.mark.parametrize("factor", [1.0, 1e-6])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_that_are_wrong_in_every_pattern_are_found(rng, kind, factor):
    patterns = crystals(rng, electrons=1e5)
    bad = spoil(patterns, kind)
    with np.errstate(over="ignore"):
        found = inspect_pixels((patterns * np.float32(factor)).astype(np.float32))
    np.testing.assert_array_equal(found.mask, bad)
    assert found.n_not_finite == 0 and f"{int(bad.sum())} " in found.describe()


@pytest.mark.parametrize("radius", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("electrons", [100, 1e4, 1e6])
@pytest.mark.parametrize("n", [1, 32])
@pytest.mark.parametrize("one_crystal", [False, True])
def test_good_pixels_are_not(rng, radius, electrons, n, one_crystal):
    if one_crystal:
        clean = crystals(rng, 1, radius, electrons=1e9) / 1e9
        patterns = rng.poisson(np.repeat(clean, n, 0) * electrons)
    else:
        patterns = crystals(rng, n, radius, electrons=electrons)
    assert not inspect_pixels(patterns.astype(np.float32)).mask.any()


@pytest.mark.parametrize("kind", ["the same again", "one, of no whole counts"])
def test_single_electrons_are_no_hot_pixels(rng, kind):
    patterns = crystals(rng, 1, electrons=3e3)
    if kind == "the same again":
        patterns = np.repeat(patterns, 20, 0)
    else:
        patterns = (patterns * rng.normal(60, 9, patterns.shape)).astype(np.float32)
    assert not inspect_pixels(patterns).mask.any()


def test_nan_in_some_patterns_are_theirs(rng):
    patterns = crystals(rng)
    patterns[3, 4, 4], patterns[5] = np.nan, np.nan
    found = inspect_pixels(patterns)
    assert not found.mask.any() and found.n_not_finite == 2


def test_the_user_is_told_and_nothing_else_changes(rng):
    patterns = crystals(rng).reshape(4, 8, *SHAPE)
    clean = Scan.from_signal(signal_of(patterns))
    assert clean.signal_mask is None
    spoilt = patterns.copy()
    spoilt[:, :, 20, 30] = 6e4
    with pytest.warns(UserWarning, match=r"1 detector pixels .* wrong in all of 32 .*\(20, 30\).*signal_mask"):
        scan = Scan.from_signal(signal_of(spoilt))
    assert int(scan.signal_mask.sum()) == 1 and bool(scan.signal_mask[20, 30])
    mask = pyxem_dl.find_bad_pixels(signal_of(spoilt))
    np.testing.assert_array_equal(mask, scan.signal_mask.numpy())
    given, found = (match_disks(signal_of(spoilt), Probe.ideal(3.0), signal_mask=mask, **QUIET), None)
    with pytest.warns(UserWarning, match="wrong in all"):
        found = match_disks(signal_of(spoilt), Probe.ideal(3.0), **QUIET)
    for a, b in zip(given.data.ravel(), found.data.ravel(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_pattern_with_a_value_that_is_not_finite_is_used(value):
    patterns = torch.rand(2, 5, 5)
    patterns[0, 2, 2] = value
    seen, usable = usable_patterns(patterns)
    assert usable.tolist() == [False, True] and not seen[0].any()
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2, 2] = True
    assert usable_patterns(patterns, mask)[1].all()


# ------------------------------------------------------------------ the beam
@pytest.mark.parametrize("radius, tolerance", [(1.5, 0.2), (3.0, 0.2), (10.0, 0.4)])
@pytest.mark.parametrize("electrons", [100, 1e4])
@pytest.mark.parametrize("off", [(0, 0), (20, -15)])
def test_the_beam_is_found_wherever_it_is(rng, radius, tolerance, electrons, off):
    true = np.add(CENTER, off)
    patterns = crystals(rng, radius=radius, centers=true, electrons=electrons)
    beam = found_beam(patterns)
    assert beam.certain
    np.testing.assert_allclose(beam.center, true, atol=tolerance + (0.5 if electrons < 1e3 else 0))
    each = beam.find(torch.from_numpy(patterns), np.arange(32), (4, 8)).numpy()
    assert np.hypot(*(each - true).T).max() < (0.5 if electrons > 1e3 else 0.4 * radius + 1)


@pytest.mark.parametrize("kind", ["saturated", "weak", "split", "cropped", "scaled"])
def test_a_beam_that_is_spoilt_is_found(rng, kind):
    patterns, true, mask = crystals(rng, beam=3.0 if kind == "weak" else 30.0, electrons=1e5), np.array(CENTER), None
    if kind == "saturated":
        patterns = patterns.clip(max=np.percentile(patterns, 99.5))
    elif kind == "split":
        patterns[:, 46:48], patterns[:, :, 50:52] = 0, 0
        mask = (patterns == 0).all(0)
    elif kind == "cropped":
        patterns, true = patterns[:, 25:, :-12], true - (25, 0)
    elif kind == "scaled":
        patterns = patterns * np.float32(1e-30)
    beam = found_beam(patterns, np.array(patterns.shape[1:]) / 2, mask)
    assert beam.certain
    np.testing.assert_allclose(beam.center, true, atol=0.6)


@pytest.mark.parametrize("thick, off", [(2, 0), (3, 1), (5, 1), (7, 1), (7, 2)])
@pytest.mark.parametrize("radius", [2.5, 8.0])
def test_a_beam_behind_a_gap_is_found_or_doubted(rng, thick, off, radius):
    patterns = crystals(rng, radius=radius, electrons=1e5, centers=(47, 50))
    mask = np.zeros(SHAPE, bool)
    mask[47 + off - thick // 2 : 47 + off - thick // 2 + thick] = True
    patterns[:, mask] = 0
    beam = found_beam(patterns, (45, 51), mask)
    assert not beam.certain or np.hypot(*(beam.center - (47, 50))) < 0.5


@pytest.mark.parametrize("n", [1, 12])
@pytest.mark.parametrize("radius, shape", [(30, (192, 200)), (30, (128, 128)), (8, (32, 32))])
def test_a_large_disk_is_found_by_its_edge(rng, radius, shape, n):
    center = np.array(shape) / 2 + (0.3, -0.6)
    patterns = crystals(rng, 1, radius=radius, shape=shape, centers=center, electrons=1e6).repeat(n, 0)
    beam = found_beam(patterns, center, shape=(n,))
    assert beam.certain
    np.testing.assert_allclose(beam.center, center, atol=0.02 * radius + 0.1)
    if radius == 30:
        assert abs(beam.radius - radius) < 1


def test_a_beam_that_moves_over_the_scan_is_followed(rng):
    row, column = np.indices((4, 8)).reshape(2, -1)
    true = np.stack([CENTER[0] + 3 * (row - 1.5), CENTER[1] - 1.4 * (column - 3.5)], 1)
    patterns = crystals(rng, centers=true)
    beam = found_beam(patterns)
    each = beam.find(torch.from_numpy(patterns), np.arange(32), (4, 8)).numpy()
    assert np.hypot(*(each - true).T).max() < 0.5
    signal = signal_of(patterns.reshape(4, 8, *SHAPE))
    with pytest.warns(UserWarning, match="move during the scan.*auto"):
        Scan.from_signal(signal)


def test_behind_a_stop_the_beam_stays_where_it_is_said_to_be_or_is_found_and_doubt_is_told(rng):
    row, column = np.indices(SHAPE)
    stop = (np.hypot(row - CENTER[0], column - CENTER[1]) < 7) | ((np.abs(row - CENTER[0]) < 3) & (column < CENTER[1]))
    patterns = np.where(stop, 0, crystals(rng, electrons=1e5)).astype(np.float32)
    beam = found_beam(patterns, mask=stop)
    np.testing.assert_allclose(beam.center, CENTER, atol=1)
    one = np.repeat(patterns[:1], 32, 0)
    lost = found_beam(one, mask=stop)
    np.testing.assert_allclose(lost.center, CENTER, atol=1)
    if not lost.certain:
        with pytest.warns(UserWarning, match="not sure where the direct beam is"):
            Scan.from_signal(signal_of(one.reshape(4, 8, *SHAPE)), center="auto", signal_mask=stop)


@pytest.mark.filterwarnings("error")
def test_a_beam_where_it_should_be_is_no_news(rng):
    patterns = crystals(rng).reshape(4, 8, *SHAPE)
    for center in (None, "auto", CENTER, np.full((4, 8, 2), CENTER), (47, 51)):
        Scan.from_signal(signal_of(patterns), center=center)


def test_a_beam_that_the_patterns_contradict_is_told_with_both_positions(rng):
    patterns = crystals(rng, centers=(44.3, 52.6)).reshape(4, 8, *SHAPE)
    with pytest.warns(UserWarning, match=r"seems to be at .*\(44\.\d, 52\.\d\).*\(47\.3, 50\.6\).*auto"):
        Scan.from_signal(signal_of(patterns))
    with pytest.warns(UserWarning, match="one for each pattern"):
        Scan.from_signal(signal_of(patterns), center=np.full((4, 8, 2), CENTER))


def test_a_beam_outside_of_the_detector_is_refused(rng):
    patterns = crystals(rng).reshape(4, 8, *SHAPE)
    with pytest.raises(ValueError, match=r"\(-4, 50\).*outside of the detector of 96 x 100.*signal axes.*auto"):
        Scan.from_signal(signal_of(patterns, center=(-4, 50)))
    with pytest.raises(ValueError, match=r"\(47, 756\).*outside.*was given in"):
        Scan.from_signal(signal_of(patterns), center=(47, 756))
    centers = np.full((4, 8, 2), CENTER)
    centers[1, 2] = (10, -20)
    with pytest.raises(ValueError, match=r"\(10, -20\).*outside"):
        Scan.from_signal(signal_of(patterns), center=centers)
    excluded = np.zeros((4, 8), bool)
    excluded[1, 2] = True
    Scan.from_signal(signal_of(patterns), center=centers, navigation_mask=excluded)
    found = Scan.from_signal(signal_of(patterns, center=(-4, 50)), center="auto")
    np.testing.assert_allclose(found.calibration.center, CENTER, atol=0.3)


@pytest.mark.parametrize("center", [{}, ("a", "b"), object(), b"x"])
def test_a_center_of_no_numbers_is_refused(center):
    with pytest.raises(TypeError, match='center is "auto", .row, column. in pixels'):
        Scan.from_signal(signal_of(np.ones((2, 2, 8, 8))), center=center)


WRONG = [{"scale": "x"}, {"scale": 0.1}, {"scale": (0.1,)}, {"center": ("a", 1)}, {"shape": "q"}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_calibration_of_no_numbers_is_refused(wrong):
    with pytest.raises(ValueError, match="of a calibration is two numbers"):
        Calibration(**{"scale": (0.1, 0.1), "center": (1.0, 1.0), "shape": (4, 4)} | wrong)


def test_never_centred_then_cropped():
    signal = Diffraction2D(np.random.default_rng(0).poisson(3, (2, 2, 40, 40)))
    for axis in signal.axes_manager.signal_axes:
        axis.units, axis.scale = "1/Å", 0.05
    with pytest.raises(ValueError, match="outside of the detector of 32 x 32"):
        match_disks(signal.isig[4:36, 4:36], Probe.ideal(3), **QUIET)


# ------------------------------------------------------------------ scales
@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("verb", [match_disks, predict_bragg_vectors])
def test_the_scale_of_intensities_does_not_show(rng, verb, factor):
    patterns = crystals(rng, 6, radius=5.0).reshape(2, 3, *SHAPE)
    for probe in (None, Probe.ideal(5.0)):
        one, other = (verb(signal_of(p), probe=probe, **QUIET) for p in (patterns, patterns * np.float32(factor)))
        for a, b in zip(one.data.ravel(), other.data.ravel(), strict=True):
            assert a.shape == b.shape and len(a) > 3
            np.testing.assert_allclose(b[:, :2], a[:, :2], atol=1e-3 * 0.02)
            np.testing.assert_allclose(b[:, 2] / factor, a[:, 2], rtol=1e-2, atol=1)


@pytest.mark.parametrize("verb", [match_disks, predict_bragg_vectors])
def test_small_disks_are_the_same_at_any_scale(rng, verb):
    patterns = crystals(rng, 6, radius=2.5, beam=1000.0, electrons=1e6).reshape(2, 3, *SHAPE)
    assert patterns.max() > 2e4
    one, other = (verb(signal_of(patterns * np.float32(factor)), **QUIET) for factor in (1, 3.7e-6))
    for a, b in zip(one.data.ravel(), other.data.ravel(), strict=True):
        np.testing.assert_array_equal(b[:, :2], a[:, :2])
        np.testing.assert_allclose(b[:, 2] / 3.7e-6, a[:, 2], rtol=1e-4, atol=0.1)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("center", [None, "auto"])
def test_orientations_are_the_same_at_any_scale(rng, factor, center):
    patterns = crystals(rng, 6, radius=2.0, electrons=2e4).reshape(2, 3, *SHAPE)
    phase = pyxem_dl.data.aluminium()
    verbs = [lambda s: pyxem_dl.predict_orientation(s, "al-200kv", center=center, **QUIET)]
    verbs.append(lambda s: pyxem_dl.match_templates(s, phase, resolution=5.0, center=center, **QUIET))
    for verb in verbs:
        one, other = verb(signal_of(patterns)), verb(signal_of(patterns * np.float32(factor)))
        np.testing.assert_array_equal(one.phase_id, other.phase_id)
        closeness = np.abs((one.rotations.data * other.rotations.data).sum(-1))
        assert np.degrees(2 * np.arccos(np.clip(closeness, 0, 1))).max() < 0.05


def test_what_float32_cannot_hold_is_refused_but_not_for_a_marked_pixel(rng):
    patterns = crystals(rng, 4).astype(float).reshape(2, 2, *SHAPE)
    for factor in (1e-60, 1e60):
        with pytest.raises(ValueError, match=r"float32 cannot hold.*s\.data \* 1e[+-]"):
            Scan.from_signal(signal_of(patterns * factor))
    patterns[:, :, 20, 30] = 1e300
    with pytest.warns(UserWarning, match="1 not finite"):
        Scan.from_signal(signal_of(patterns))


def test_no_disk_says_what_to_give():
    with pytest.raises(ValueError, match="(No disk was found|larger than|empty).*`probe=`|empty or constant"):
        Probe.from_patterns(np.linspace(0, 1, 400).reshape(1, 20, 20))


# ------------------------------------------------------------------ beam energies
@pytest.mark.parametrize(
    "value, expected",
    [
        (200, 200), ("200", 200), ("200 kV", 200), ("200kV", 200), ("80.0 keV", 80), ("200000 V", 200),
        ("3e5 eV", 300), ("1.25 MV", 1250), ([200], 200), (np.array(300.0), 300), (np.array(["60 kV"]), 60),
        (b"120", 120),
    ],
)  # fmt: skip
def test_beam_energies_that_can_be_read_are(value, expected):
    assert read_beam_energy(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value, match",
    [
        (200000, "If it was given in volts, it is 200 kV"), (0.2, "megavolts, it is 200 kV"),
        (float("nan"), "not the beam energy"),
        (-200, "not the beam energy"), ([200, 300], "give one value"), ("two hundred", "a number in kV"),
        ("200 mm", "a number in kV"), (True, "a number in kV"), ("200,000", "a number in kV"),
    ],
)  # fmt: skip
def test_others_are_refused_wherever_they_come_from(value, match):
    with pytest.raises(ValueError, match=match):
        read_beam_energy(value)
    signal = signal_of(np.ones((1, 1, 8, 8)))
    with pytest.raises(ValueError, match=match):
        Calibration.from_signal(signal, value)


def test_the_advice_works_for_signals_of_every_class():
    signal = Diffraction2D(np.random.default_rng(0).poisson(5, (2, 2, 32, 32)))
    for axis in signal.axes_manager.signal_axes:
        axis.units, axis.scale, axis.offset = "mrad", 1.0, -16
    with pytest.raises(ValueError, match="needs the beam energy") as error:
        Calibration.from_signal(signal)
    advice = str(error.value).split("`")[3]
    exec(advice, {"s": signal})  # noqa: S102 (the advice is run as a user would)
    assert Calibration.from_signal(signal).beam_energy == 200
    match_disks(signal, Probe.ideal(3), beam_energy=300, **QUIET)


# ------------------------------------------------------------------ other processes
@pytest.mark.parametrize("processes", [True, False])
def test_lazy_vectors_with_a_client(rng, processes):
    distributed = pytest.importorskip("distributed")
    patterns = crystals(rng, 6, radius=5.0).reshape(2, 3, *SHAPE)
    expected = predict_bragg_vectors(signal_of(patterns), **QUIET).data
    arguments = {"n_workers": 1, "threads_per_worker": 1, "processes": processes, "dashboard_address": None}
    with distributed.LocalCluster(**arguments) as cluster, distributed.Client(cluster):
        signal = signal_of(da.from_array(patterns, chunks=(1, 2, -1, -1)))
        lazy = predict_bragg_vectors(signal, lazy_output=True, **QUIET)
        found = lazy.data.compute()
    for a, b in zip(expected.ravel(), found.ravel(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def test_vectors_are_the_same_for_any_chunks(rng):
    patterns = crystals(rng, 99, radius=4.0, electrons=3000, shape=(48, 50), centers=(23, 26)).reshape(9, 11, 48, 50)
    expected = match_disks(signal_of(patterns, (23, 26)), **QUIET).data
    for chunks in ((1, 1, -1, -1), (4, 3, 30, 50)):
        found = match_disks(signal_of(da.from_array(patterns, chunks=chunks), (23, 26)), **QUIET).data
        for a, b in zip(expected.ravel(), found.ravel(), strict=True):
            # a sum over a disk may be rounded otherwise in another batch
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-9)
