"""Atomic-resolution images: their scale, regions by local symmetry, descriptors, and what cannot be used."""

import hyperspy.api as hs
import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.optimize import linear_sum_assignment

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.frames import ImageCalibration

BCC_100, FCC_100, FCC_110, HCP_0001 = (data.metal_crystals()[i] for i in (0, 3, 4, 7))


def image(values, pixel=0.12, units="Å"):
    signal = hs.signals.Signal2D(values)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = pixel, units
    return signal


def agreement(labels, truth, margin=10):
    """Share of the pixels far from boundaries with the right label, up to the names of labels; 0 is 0."""
    edge = np.zeros(truth.shape, bool)
    edge[1:] |= truth[1:] != truth[:-1]
    edge[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    far = ~binary_dilation(edge, iterations=margin)
    names = [np.unique(x[x > 0]) for x in (truth, labels)]
    counts = np.array([[((truth == a) & (labels == b) & far).sum() for b in names[1]] for a in names[0]])
    right = counts[linear_sum_assignment(-counts)].sum() if counts.size else 0
    return (right + ((truth == 0) & (labels == 0) & far).sum()) / far.sum()


# ---------------------------------------------------------------- calibration
@pytest.mark.parametrize(
    "units, factor", [("nm", 10), ("pm", 0.01), ("Å", 1), ("$\\AA$", 1), ("angstrom", 1), ("\u00c3\u0085", 1)]
)
def test_units_of_length(units, factor):
    found = ImageCalibration.from_signal(image(np.zeros((40, 50)), 0.12 / factor, units))
    assert found.pixel == pytest.approx(0.12) and found.shape == (40, 50)
    assert found.size == pytest.approx((4.8, 6.0))


@pytest.mark.parametrize(
    "change, error, match",
    [
        (lambda s: s.axes_manager.signal_axes[0].trait_set(units=""), ValueError, "no scale .*ax.scale, ax.units"),
        (lambda s: s.axes_manager.signal_axes[1].trait_set(units="1/nm"), ValueError, "looks like a diffraction"),
        (lambda s: s.axes_manager.signal_axes[1].trait_set(units="apples"), ValueError, "'apples'.*not understood"),
        (lambda s: s.axes_manager.signal_axes[1].trait_set(scale=0.13), ValueError, "0.13 Å high and 0.12 Å wide"),
        (lambda s: [a.trait_set(units="µm") for a in s.axes_manager.signal_axes], ValueError, "Is the unit right"),
        (lambda s: [a.trait_set(scale=0.6) for a in s.axes_manager.signal_axes], ValueError, "0.6 Å wide; .*0.5 Å"),
        (lambda s: s.change_dtype("complex64"), TypeError, "s.amplitude"),
        (lambda s: s.set_signal_type("electron_diffraction"), ValueError, "set_signal_type"),
        (lambda s: setattr(s, "data", np.zeros_like(s.data)), ValueError, "constant"),
        (lambda s: setattr(s, "data", np.full(s.data.shape, np.nan)), ValueError, "not finite"),
    ],
)
def test_what_is_no_image(change, error, match, rng):
    signal = image(rng.random((160, 160)))
    change(signal)
    with pytest.raises(error, match=match):
        pyxem_dl.segment_by_symmetry(signal, show_progressbar=False)


def test_colours_and_two_navigation_axes_and_small_images(rng):
    colours = hs.signals.Signal1D(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    colours.change_dtype("rgb8")
    colours = colours.transpose(signal_axes=2) if colours.axes_manager.signal_dimension != 2 else colours
    with pytest.raises(TypeError, match="colours"):
        colours.segment_by_symmetry()
    with pytest.raises(ValueError, match="one navigation axis, this signal has 2"):
        image(rng.random((2, 2, 64, 64))).segment_by_symmetry()
    with pytest.raises(ValueError, match="at least 32"):
        image(rng.random((16, 64))).segment_by_symmetry()
    with pytest.raises(ValueError, match="window is 12 Å, but the image has 7.68 x 7.68"):
        image(rng.random((64, 64))).segment_by_symmetry()
    with pytest.raises(TypeError, match="HyperSpy signal"):
        pyxem_dl.segment_by_symmetry(rng.random((64, 64)))


@pytest.mark.parametrize(
    "given", [{"n_regions": 0}, {"n_regions": "two"}, {"window": -1}, {"seed": -1}, {"memberships": 1}]
)
def test_arguments_of_segmentation(given, rng):
    with pytest.raises((ValueError, TypeError), match=next(iter(given))):
        image(rng.random((160, 160))).segment_by_symmetry(**given)


# ---------------------------------------------------------------- regions
@pytest.mark.parametrize("counts, crystals, angles", [
    (2, [BCC_100, BCC_100], [10, 45]), (100, [FCC_110, HCP_0001], [0, 20]),
])  # fmt: skip
def test_two_grains(counts, crystals, angles):
    scene = data.atomic_grains((320, 320), counts, crystals=crystals, angles=angles, seed=1)
    found = scene.signal.segment_by_symmetry(show_progressbar=False)
    assert type(found) is hs.signals.Signal2D and found.data.dtype.kind == "i"
    assert found.data.max() == 2
    assert agreement(found.data, scene.labels) > 0.995
    # the largest region is the first
    assert (np.diff(np.bincount(found.data.ravel())[1:]) <= 0).all()
    for new, old in zip(found.axes_manager.signal_axes, scene.signal.axes_manager.signal_axes):
        assert (new.name, new.units, new.scale, new.offset) == (old.name, old.units, old.scale, old.offset)


def test_one_grain_is_not_divided_although_it_is_uneven():
    truth = np.ones((320, 320), int)
    scene = data.atomic_grains((320, 320), 5, crystals=[FCC_100], labels=truth, seed=3)
    uneven = scene.signal.data * np.linspace(0.4, 1.6, 320)[:, None]
    assert (image(uneven).segment_by_symmetry(show_progressbar=False).data == 1).mean() > 0.999


FCC_111 = data.metal_crystals()[5]


@pytest.mark.parametrize("second", [FCC_111, HCP_0001])
def test_a_faint_grain_beside_another_has_no_holes(second):
    """At half an electron per pixel; the planes of fcc [111] are hardly wider apart than the probe."""
    scene = data.atomic_grains((320, 320), 0.5, crystals=[FCC_111, second], angles=[5, 35], seed=1)
    found = scene.signal.segment_by_symmetry(2, show_progressbar=False).data
    assert (found > 0).mean() > 0.995
    assert agreement(found, scene.labels) > 0.96


def test_noise_is_not_correlated_with_itself(rng):
    """The flattening makes near pixels opposite: known, and taken away, by the share of the noise."""
    for window in (12.0, 18.0):
        noise = image(rng.poisson(3.0, (512, 512)).astype(np.float32))
        found = noise.get_symmetry_descriptors(window=window, show_progressbar=False)
        lengths = np.array([np.hypot(x, y) for _, x, y in found.metadata.Pyxem_dl.operations])
        means = found.data.mean((0, 1))
        assert abs(means[lengths < 1.8].mean()) < 0.005 and abs(means[lengths > 3].mean()) < 0.002


def test_vacuum_and_amorphous_are_none():
    scene = data.atomic_grains(
        (384, 384), 10, crystals=[BCC_100, FCC_110], angles=[5, 30], vacuum=True, amorphous=True, seed=5
    )
    found = scene.signal.segment_by_symmetry(show_progressbar=False)
    assert agreement(found.data, scene.labels) > 0.96
    assert found.data.max() == 2 and (found.data[scene.labels == 0] == 0).mean() > 0.9


def test_nothing_but_noise_is_nothing(rng):
    with pytest.warns(UserWarning, match="Nothing in the image is periodic"):
        found = image(rng.poisson(5, (256, 256))).segment_by_symmetry(show_progressbar=False)
    assert not found.data.any()


def test_memberships_add_up_and_are_soft_at_the_boundary():
    scene = data.atomic_grains((256, 256), 50, crystals=[BCC_100] * 2, angles=[0, 30], seed=1)
    labels, shares = scene.signal.segment_by_symmetry(memberships=True, show_progressbar=False)
    assert shares.data.shape == (3, 256, 256)
    assert shares.axes_manager.navigation_axes[0].name == "region"
    assert shares.data.sum(0) == pytest.approx(1, abs=1e-4) and shares.data.min() > -1e-5
    assert (shares.data[1:].argmax(0) + 1 == labels.data)[labels.data > 0].all()
    top = shares.data.max(0)
    inside = binary_dilation(np.diff(scene.labels, axis=0, prepend=scene.labels[:1]) != 0, iterations=20)
    assert np.median(top[~inside]) > 0.9


def test_with_a_number_there_are_so_many():
    scene = data.atomic_grains((320, 320), 20, crystals=[BCC_100, BCC_100, FCC_110], angles=[0, 30, 0], seed=2)
    assert scene.signal.segment_by_symmetry(3, show_progressbar=False).data.max() == 3
    assert scene.signal.segment_by_symmetry(2, show_progressbar=False).data.max() == 2
    truth = np.ones((256, 256), int)
    single = data.atomic_grains((256, 256), 100, crystals=[BCC_100], labels=truth).signal
    with pytest.warns(UserWarning, match="windows should hold three cells"):
        single.segment_by_symmetry(window=5.2, show_progressbar=False)


def test_a_series_has_the_same_labels_in_every_frame_lazy_or_not():
    scenes = [
        data.atomic_grains((200, 180), 20, crystals=[BCC_100, FCC_110], angles=[0, 30], labels=labels, seed=i)
        for i, labels in enumerate(
            np.where(np.arange(180) < edge, 1, 2) * np.ones((200, 1), int) for edge in (60, 90, 120)
        )
    ]
    frames = np.stack([scene.signal.data for scene in scenes])
    frames = np.concatenate([frames, np.zeros_like(frames[:1])])
    frames[1, :3, :3] = np.nan
    series = image(frames)
    series.axes_manager.navigation_axes[0].name, series.axes_manager.navigation_axes[0].scale = "time", 0.5
    found = series.segment_by_symmetry(show_progressbar=False)
    assert found.data.shape == frames.shape and found.axes_manager.navigation_axes[0].scale == 0.5
    truth = np.stack([scene.labels for scene in scenes])
    swap = {1: 1, 2: 2} if (found.data[0] == truth[0]).mean() > 0.5 else {1: 2, 2: 1}
    for i in range(3):
        right = found.data[i] == np.vectorize(swap.get)(truth[i])
        assert right.mean() > 0.93
    assert not found.data[3].any()
    lazy = image(frames).as_lazy()
    lazy.data = lazy.data.rechunk((1, 50, 60))
    lazily = lazy.segment_by_symmetry(show_progressbar=False)
    assert lazily._lazy and lazily.data.dtype == np.int16
    assert (lazily.data[2].compute() == found.data[2]).all()
    lazily.compute(show_progressbar=False)
    assert (lazily.data == found.data).all()


def test_a_real_image_of_a_grain_boundary(shared_data):
    fe = np.load(shared_data / "atomic" / "Fe_bcc_100.npy")
    found = image(fe, 0.1245).segment_by_symmetry(show_progressbar=False).data
    assert found.max() == 2
    top, bottom = found[:190], found[300:]
    names = np.bincount(top.ravel()).argmax(), np.bincount(bottom.ravel()).argmax()
    assert names[0] != names[1]
    assert (top == names[0]).mean() > 0.98 and (bottom == names[1]).mean() > 0.98


# ---------------------------------------------------------------- descriptors
def test_shifts_of_a_lattice_are_where_its_translations_are():
    scene = data.atomic_grains((256, 256), 500, crystals=[BCC_100], angles=[20], labels=np.ones((256, 256), int))
    found = scene.signal.get_symmetry_descriptors(show_progressbar=False)
    assert type(found) is hs.signals.Signal1D
    x, y = found.axes_manager.navigation_axes
    assert x.scale == pytest.approx(0.96) and x.offset == pytest.approx(0.12 * 3.5) and x.units == "Å"
    names = found.metadata.Pyxem_dl.operations
    assert len(names) == found.data.shape[-1]
    shifts = np.array([name[1:] for name in names])
    middle = found.data[10:16, 10:16].mean((0, 1))
    # y runs down: 20 degrees counter-clockwise with y up
    turn = np.deg2rad(20)
    a, b = 2.027 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    fraction = shifts @ np.linalg.inv(np.array([a, b]))
    off = np.linalg.norm((fraction - np.round(fraction)) @ np.array([a, b]), axis=1)
    assert middle[off < 0.15].min() > 0.6 > 0.2 > middle[off > 1.2].max()


def test_rotations_and_mirrors_of_a_square_net():
    scene = data.atomic_grains((200, 200), 500, crystals=[BCC_100], angles=[10], labels=np.ones((200, 200), int))
    found = scene.signal.get_symmetry_descriptors("all", show_progressbar=False)
    middle = found.data[6:18, 6:18].mean((0, 1))
    value = {(name[0], name[1]): v for name, v in zip(found.metadata.Pyxem_dl.operations, middle) if len(name) == 2}
    assert value["rotation", 90.0] > 0.8 and value["rotation", 180.0] > 0.8 > 0.5 > value["rotation", 40.0]
    # mirror lines along the rows, counter-clockwise from x
    assert min(value["reflection", a] for a in (10.0, 55.0, 100.0, 145.0)) > 0.8
    assert max(value["reflection", a] for a in (30.0, 80.0)) < 0.5


def test_hyperspy_works_with_descriptors():
    scene = data.atomic_grains((200, 200), 50, crystals=[BCC_100] * 2, angles=[0, 45])
    found = scene.signal.get_symmetry_descriptors(show_progressbar=False)
    found.decomposition(output_dimension=3, print_info=False)
    assert found.get_decomposition_loadings().data.shape == (3, *found.data.shape[:2])


def test_operations_have_names():
    with pytest.raises(ValueError, match="'shifts', 'rotations'"):
        image(np.eye(128)).get_symmetry_descriptors("glides")
