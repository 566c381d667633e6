"""
Template matching on known grains
=================================

Template matching is the baseline. A scan over a few grains of aluminium is simulated, with spots, background and
counting noise. Templates are matched by both engines, and their maps are compared with the truth and with each other.
"""

# sphinx_gallery_thumbnail_path = "gallery/03_template_matching/disorientation.webp"

from pathlib import Path

import hyperspy.api as hs
import numpy as np
import torch

import pyxem_dl
from pyxem_dl import crystals, metrics, plot, rotations
from pyxem_dl.frames import Calibration
from pyxem_dl.simulation import Background, draw_spots, expected_background, spot_intensity

# %%
# What you may change. pyxem's engine takes longer than the one in torch.

ENGINES = ["torch", "pyxem"]
RESOLUTION = 2.0  # degrees between the zone axes of the templates
BEAM_ENERGY = 200.0  # kV
RADIUS = 1.2  # Å⁻¹
OUTPUT = Path("03_template_matching")  # folder of the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# A scan with its truth
# ---------------------
# For your own scan write ``s = hyperspy.api.load("scan.zspy")`` in place of this cell and the next.


def simulate_scan(phase, shape=(11, 15), n_grains=6, pixels=72, electrons=5000, seed=4):
    """Scan over grains of one phase.

    Returns the signal with ``electrons`` expected in the spots of each pattern, and the true orientations (n, 4).
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    # each position belongs to the nearest of some points, of which no two are close
    points = rng.uniform(0, shape, (n_grains, 2))
    position = np.stack(np.indices(shape), axis=-1).reshape(-1, 2)
    grain = np.linalg.norm(position[:, None] - points, axis=-1).argmin(axis=1)
    truth = rotations.random_rotations(n_grains, generator)[grain]

    scale = 2 * RADIUS / pixels
    calibration = Calibration((scale, scale), (pixels / 2, pixels / 2), (pixels, pixels), BEAM_ENERGY)
    table = crystals.ReflectionTable.stack([crystals.reflections(phase, 1.2 * RADIUS)], BEAM_ENERGY)
    spots = crystals.find_spots(table, torch.zeros(len(truth), dtype=torch.long), truth, BEAM_ENERGY)
    thickness = torch.tensor(100.0)  # Å
    intensity = spot_intensity("lorentzian", spots.excitation_error, thickness, spots.extinction_distance)
    intensity = torch.where(spots.structure_factor > 0, intensity, 0.0)
    intensity = electrons * intensity / intensity.sum(dim=1, keepdim=True)
    expected = draw_spots(spots.kx, spots.ky, intensity, calibration, disk_radius=0.03, blur=0.6)
    zero = torch.zeros(len(truth), 1)
    expected += draw_spots(zero, zero, zero + 20 * electrons, calibration, disk_radius=0.03, blur=0.6)
    halo = torch.exp(-torch.linspace(0, 2, 256) / 0.3).expand(len(truth), -1)
    expected += 0.5 * electrons * expected_background(Background(halo, 2.0, torch.zeros(len(truth), 2)), calibration)
    counts = torch.poisson(expected, generator=generator).numpy().astype(np.uint16)

    s = hs.signals.Signal2D(counts.reshape(*shape, pixels, pixels))
    s.set_signal_type("electron_diffraction")
    s.set_experimental_parameters(beam_energy=BEAM_ENERGY)
    for axis in s.axes_manager.signal_axes:
        axis.scale, axis.offset, axis.units = scale, -scale * pixels / 2, "1/Å"
    for axis in s.axes_manager.navigation_axes:
        axis.scale, axis.units = 5.0, "nm"
    return s, truth


# %%
aluminium = pyxem_dl.data.aluminium()
s, truth = simulate_scan(aluminium)
print(s)

# %%
# Match
# -----
# Both engines get the same templates, and give the same kind of crystal map.

maps = {engine: s.match_templates(aluminium, n_best=2, engine=engine, resolution=RESOLUTION) for engine in ENGINES}

# %%
# How far from the truth? The zero-order reflections do not tell an orientation from the one turned by 180° about the
# beam, so the accuracy is given modulo that turn, and strict.

print("| engine | modulo 180°: within 2° | within 5° | median | strict: within 5° |")
print("| --- | --- | --- | --- | --- |")
for engine, xmap in maps.items():
    found = metrics.accuracy(xmap, truth, aluminium)
    m, strict = found["modulo_180"], found["strict"]
    print(f"| {engine} | {m.within_2:.0%} | {m.within_5:.0%} | {m.median:.2f}° | {strict.within_5:.0%} |")

# %%
# Look
# ----
# Our own engine, in torch:

figure = plot.orientation_map(maps[ENGINES[0]], title=f"Template matching ({ENGINES[0]})")
figure.savefig(OUTPUT / "orientations_torch.png")
figure

# %%
# pyxem's engine:

figure = plot.orientation_map(maps[ENGINES[-1]], title=f"Template matching ({ENGINES[-1]})")
figure.savefig(OUTPUT / "orientations_pyxem.png")
figure

# %%
# The spots that the orientations predict, on patterns far from each other:

figure = plot.patterns_with_spots(s, maps, reciprocal_radius=RADIUS, max_excitation_error=0.08)
figure.savefig(OUTPUT / "patterns.png")
figure

# %%
# Where do the engines disagree?

between = metrics.disorientation(maps[ENGINES[0]], maps[ENGINES[-1]], modulo_180=True)
print(f"Between the engines, modulo 180°: within 5° at {np.mean(between < 5):.0%} of the positions")
figure = plot.disorientation_map(
    maps[ENGINES[0]], maps[ENGINES[-1]], title="Disorientation between the engines, modulo 180°"
)
figure.savefig(OUTPUT / "disorientation.png")
figure
