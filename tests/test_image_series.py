"""Series of images and images that cannot be used: what streams, what is flagged, and what is said about it."""

import math
import tracemalloc

import dask
import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
import sample_phases
import torch
from test_images import BCC_100, FCC_110, agreement, image

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.images import strains
from pyxem_dl.images.segmentation import SegmentationStep
from pyxem_dl.images.series import usable_frame
from pyxem_dl.images.waves import Scales, Waves
from pyxem_dl.results.structures import StructureMaps

QUIET = {"show_progressbar": False, "on_message": lambda line: None}
CRYSTALS = data.metal_crystals()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that has hardly learnt anything, of a cubic and a trigonal crystal; nothing is "other" to it."""
    phases = [sample_phases.phase("Al"), sample_phases.phase("LiNiO2")]
    model = pyxem_dl.train_structures(
        phases, [[(1, 0, 0)], [(0, 0, 1)]], output=tmp_path_factory.mktemp("model") / "quick", max_steps=2,
        batch_size=16, network={"width": 4}, show_progressbar=False,
    )  # fmt: skip
    model.thresholds = {"other": 1.0}
    return model


@pytest.fixture(scope="module")
def grain():
    return data.atomic_grains((150, 160), 20, crystals=[BCC_100], labels=np.ones((150, 160), int), seed=1).signal


def bad_frames(frame):
    """Frames that cannot be used, each for another reason."""
    half = frame.copy()
    half[: len(half) // 2 + 1] = np.nan
    saturated = np.minimum(frame, np.percentile(frame, 30))
    return np.stack([np.zeros_like(frame), np.full_like(frame, 7), np.full_like(frame, np.inf), half, saturated])


# ---------------------------------------------------------------- what cannot be used
def test_which_frames_can_be_used(grain):
    frame = grain.data.astype(np.float32)
    assert all(usable_frame(torch.from_numpy(each)) is None for each in bad_frames(frame))
    few = frame.copy()
    few[3, 4] = np.nan
    assert float(usable_frame(torch.from_numpy(few))[3, 4]) == np.median(frame)
    assert torch.equal(usable_frame(torch.from_numpy(frame)), torch.from_numpy(frame))


@pytest.mark.parametrize("lazy", [False, True])
def test_frames_that_cannot_be_used_are_counted_and_flagged(grain, model, lazy):
    frames = np.concatenate([grain.data[None], bad_frames(grain.data.astype(np.float32)), grain.data[None]])
    series = image(frames.astype(np.float32))
    series = series.as_lazy() if lazy else series
    said = r"5 of 7 frames could not be used \(1, 2, 3, 4, 5\)"
    if lazy:
        labels = series.segment_by_symmetry(**QUIET)
        labels.compute(show_progressbar=False)
    else:
        with pytest.warns(UserWarning, match=said):
            labels = series.segment_by_symmetry(**QUIET)
    assert not labels.data[1:6].any() and (labels.data[[0, 6]] == 1).mean() > 0.99
    with pytest.warns(UserWarning, match=said):
        maps = series.classify_structure(model, step=4.0, n_samples=0, **QUIET)
    assert [(each.phase_id >= 0).any() for each in maps] == [True, *[False] * 5, True]
    assert all((maps[i].prop["other"] == 1).all() and (maps[i].prop["score"] == 0).all() for i in range(1, 6))
    with pytest.warns(UserWarning, match=said):
        lattice = series.map_lattice(step=4.0, **QUIET)
    assert (lattice.crystal[1:6] == -1).all() and (lattice.crystal[[0, 6]] == 0).all()


VERBS = ("segment_by_symmetry", "get_symmetry_descriptors", "classify_structure", "map_lattice")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [0, 2, 3, 4])
def test_one_image_that_cannot_be_used_is_an_error(grain, verb, kind):
    with pytest.raises(ValueError, match="constant|saturated|not finite"):
        getattr(image(bad_frames(grain.data.astype(np.float32))[kind]), verb)(**QUIET)


@pytest.mark.parametrize("verb", ["segment_by_symmetry", "classify_structure", "map_lattice"])
def test_no_scale_is_an_error_that_says_how_to_set_it(grain, verb):
    with pytest.raises(ValueError, match=r"no scale .*ax\.scale, ax\.units"):
        getattr(hs.signals.Signal2D(grain.data), verb)(**QUIET)


def test_a_series_of_one_frame(grain, model):
    series = image(grain.data[None])
    labels = series.segment_by_symmetry(**QUIET)
    assert labels.data.shape == (1, 150, 160) and (labels.data == 1).all()
    maps = series.classify_structure(model, step=4.0, n_samples=0, **QUIET)
    assert isinstance(maps, StructureMaps) and len(maps) == 1
    assert series.map_lattice(step=4.0, **QUIET).shape[0] == 1


def test_stretched_8_bit_images_are_as_good_as_counts():
    scene = data.atomic_grains((280, 280), 2, crystals=[BCC_100, FCC_110], angles=[10, 30], seed=4)
    counts = scene.signal.data
    low, high = np.percentile(counts, [1, 99.8])
    stretched = image((255 * ((counts - low) / (high - low)).clip(0, 1) ** 0.8).astype(np.uint8))
    plain = agreement(scene.signal.segment_by_symmetry(**QUIET).data, scene.labels)
    assert agreement(stretched.segment_by_symmetry(**QUIET).data, scene.labels) > plain - 0.01 > 0.97
    lattices = [each.map_lattice(step=4.0, **QUIET) for each in (scene.signal, stretched)]
    errors = [np.nanmedian(each.errors[3]) for each in lattices]
    assert errors[1] == pytest.approx(errors[0], rel=0.3)


# ---------------------------------------------------------------- what is said
def test_messages_speak_of_frames(grain, model):
    lines = []
    series = image(np.stack([grain.data] * 2))
    series.classify_structure(model, step=4.0, n_samples=0, show_progressbar=False, on_message=lines.append)
    series.segment_by_symmetry(show_progressbar=False, on_message=lines.append)
    text = "\n".join(lines)
    assert "frames/s (2 in" in text and "patterns" not in text
    with pytest.warns(UserWarning, match="Interrupted after 1 of 2 frames"):
        series.map_lattice(step=4.0, on_part=lambda part: False, **QUIET)


# ---------------------------------------------------------------- operations
def test_regions_by_rotations_and_reflections_too():
    scene = data.atomic_grains((220, 220), 20, crystals=[BCC_100] * 2, angles=[5, 40], seed=2)
    found = scene.signal.segment_by_symmetry(operations="all", **QUIET).data
    assert found.max() == 2 and agreement(found, scene.labels) > 0.99
    with pytest.raises(ValueError, match="'shifts' or 'all', not 'glides'"):
        scene.signal.segment_by_symmetry(operations="glides")


def test_rotations_and_reflections_count(monkeypatch):
    seen = []
    before = SegmentationStep.__init__
    monkeypatch.setattr(SegmentationStep, "__init__", lambda self, *a: (before(self, *a), seen.append(self))[0])
    scene = data.atomic_grains((160, 160), 20, crystals=[BCC_100], labels=np.ones((160, 160), int))
    for operations in ("shifts", "all"):
        scene.signal.segment_by_symmetry(operations=operations, **QUIET)
    shifts, everything = (len(step.regions.mean) for step in seen)
    assert everything == shifts + 17 + 36
    # they have a part in what tells regions apart
    assert seen[1].regions.components[shifts:].abs().max() > 0.05


# ---------------------------------------------------------------- lazy series
def test_labels_and_memberships_that_are_computed_together_are_computed_once(grain, monkeypatch):
    calls = []
    before = SegmentationStep.of_frame
    monkeypatch.setattr(
        SegmentationStep, "of_frame", lambda self, frame, index: (calls.append(index), before(self, frame, index))[1]
    )
    lazy = image(np.stack([grain.data] * 3)).as_lazy()
    lazy.data = lazy.data.rechunk((1, 80, 80))
    labels, shares = lazy.segment_by_symmetry(memberships=True, **QUIET)
    assert not calls
    found, parts = dask.compute(labels.data, shares.data)
    assert sorted(calls) == [0, 1, 2]
    assert found.shape == (3, 150, 160) and parts.shape == (3, 2, 150, 160)


@pytest.mark.parametrize("work", [
    lambda series, model: series.classify_structure(model, step=4.0, n_samples=0, **QUIET),
    lambda series, model: series.map_lattice(step=2.0, **QUIET),
])  # fmt: skip
def test_memory_does_not_grow_with_the_frames(work, grain, model, monkeypatch):
    monkeypatch.setattr(strains, "_AT_ONCE", 400)  # windows, of which frames have 12 here

    def peak(n):
        frames = da.map_blocks(
            lambda block_id=None: grain.data[None].astype(np.float32) + block_id[0],
            chunks=((1,) * n, (150,), (160,)), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32),
        )  # fmt: skip
        series = hs.signals.Signal2D(frames).as_lazy()
        for axis in series.axes_manager.signal_axes:
            axis.scale, axis.units = 0.12, "Å"
        tracemalloc.start()
        found = work(series, model)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (len(found) if hasattr(found, "indexed_share") else found.shape[0]) == n
        return most

    peak(2)  # what is imported at the first call stays
    least, most = peak(40), peak(120)
    # of 80 frames more, 7.7 MB, at most a quarter
    assert most - least < 0.25 * 80 * grain.data.size * 4


# ---------------------------------------------------------------- results as they come
def test_maps_of_a_series_in_a_store(grain, model, tmp_path):
    series = image(np.stack([grain.data, grain.data[::-1], grain.data[:, ::-1]]))
    settings = {"step": 3.0, "n_best": 2, "n_samples": 0, **QUIET}
    store = tmp_path / "maps.zarr"
    maps = series.classify_structure(model, output=store, **settings)
    again = pyxem_dl.open_result(store)
    assert len(again) == len(maps) == 3 and "3 crystal maps" in repr(again)
    for one, two in zip(maps, again):
        assert np.array_equal(one.rotations.data, two.rotations.data) and np.array_equal(one.phase_id, two.phase_id)
        assert set(one.prop) == set(two.prop) and one.scan_unit == two.scan_unit
        assert all(np.allclose(one.prop[name], two.prop[name]) for name in one.prop)
    assert len(maps[1:]) == 2 and np.array_equal(maps[-1].phase_id, maps[2].phase_id)
    with pytest.raises(IndexError):
        maps[3]
    # a second call has nothing to do
    done = []
    series.classify_structure(model, output=store, on_part=done.append, **settings)
    assert not done
    with pytest.raises(ValueError, match=r"series of 3 images: .*\.zarr"):
        series.classify_structure(model, output=tmp_path / "maps.h5", **settings)
    with pytest.raises(ValueError, match="save each by itself"):
        pyxem_dl.convert_result(store, tmp_path / "map.h5")
    one = grain.classify_structure(model, output=tmp_path / "map.h5", step=3.0, n_samples=0, **QUIET)
    from orix.io import load

    assert np.allclose(load(str(tmp_path / "map.h5")).prop["scale"], one.prop["scale"])


# ---------------------------------------------------------------- the scale that fits best
@pytest.mark.parametrize("k", [0, 7])
@pytest.mark.parametrize("scale", [0.96, 1.0, 1.045])
def test_the_best_fitting_scale(k, scale):
    angle = 25.0
    scene = data.atomic_grains(
        (240, 240), 5, crystals=[CRYSTALS[k]], angles=[angle], labels=np.ones((240, 240), int), pixel=0.24, seed=1
    )
    windows = torch.from_numpy(scene.signal.data).unfold(0, 51, 20).unfold(1, 51, 20).reshape(-1, 51, 51)
    # the image is taken for larger than it is
    pixel = 0.24 * scale
    tell = Scales([Waves.of_crystal(each) for each in CRYSTALS], 51, pixel, 12.0, torch.device("cpu"))
    n = len(windows)
    found = tell(windows, torch.full((n,), k), torch.full((n,), math.radians(angle)))
    assert float(found.median()) == pytest.approx(scale, abs=0.006)
    assert float(found.std()) < 0.02


def test_a_scale_that_is_off_is_a_warning_with_both_numbers():
    scene = data.atomic_grains((220, 220), 20, crystals=[CRYSTALS[0]], labels=np.ones((220, 220), int), seed=1)
    for axis in scene.signal.axes_manager.signal_axes:
        axis.scale = 0.125
    lines = []
    with pytest.warns(UserWarning, match=r"1\.0[34]\d times those of the phases: with 0\.1[12]\d* Å per px"):
        xmap = scene.signal.classify_structure(n_samples=0, show_progressbar=False, on_message=lines.append)
    assert np.median(xmap.prop["scale"]) == pytest.approx(0.125 / 0.12, abs=0.006)
    assert any("Scale that fits best: 1.0" in line for line in lines)
