"""
The reference frames, as code that checks itself
================================================

Six statements about patterns and orientations. Each is asserted with diffsims, orix and pyxem, and is drawn in one
panel of the picture at the end:

1. In a pattern +kx is to the right and +ky is up, towards smaller row numbers.
2. A larger first Euler angle turns the spots counter-clockwise, by the same angle.
3. An orientation takes lab to crystal: the columns of its matrix are the lab's x, y and z in crystal coordinates.
4. Zero-order reflections cannot tell an orientation from the one turned by 180 degrees about the beam.
5. Orientations that diffract alike are the same under the Laue group, not always under the point group.
6. pyxem's ``OrientationMap`` holds the same orientations, and its markers lie on the spots.

The page *Reference frames* of the documentation says the same in words.
"""

# sphinx_gallery_thumbnail_path = "gallery/01_reference_frames/reference_frames.webp"

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from diffpy.structure import Atom, Lattice, Structure
from diffsims.generators.simulation_generator import SimulationGenerator
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Orientation, Rotation
from orix.vector import Vector3d

import pyxem_dl
from pyxem_dl.frames import Calibration, k_to_pixel, pixel_to_k
from pyxem_dl.metrics import disorientation

OUTPUT = Path("01_reference_frames")  # folder of the picture
OUTPUT.mkdir(parents=True, exist_ok=True)
BEAM_ENERGY = 200  # kV
RADIUS = 1.2  # Å⁻¹
MAX_EXCITATION_ERROR = 0.03  # Å⁻¹
# 120 x 120 px of 0.02 Å⁻¹; the direct beam is in the middle of a pixel
CALIBRATION = Calibration(scale=(0.02, 0.02), center=(60, 60), shape=(120, 120), beam_energy=BEAM_ENERGY)

COLORS = "#0072b2", "#d55e00"

# %%
# Tools
# -----
# A crystal without a centre of inversion, orientations by their directions, and patterns simulated by diffsims.


def gallium_arsenide():
    """A crystal without a centre of inversion: point group -43m, Laue group m-3m."""
    atoms = [Atom("Ga", [0, 0, 0]), Atom("As", [0.25, 0.25, 0.25])]
    structure = Structure(lattice=Lattice(5.653, 5.653, 5.653, 90, 90, 90), atoms=atoms)
    return pyxem_dl.load_phases(Phase("GaAs", space_group=216, structure=structure))[0]


def along(phase, zone_axis, upwards):
    """Orientation with the direction [uvw] towards the electron source and the plane normal (hkl) up."""
    lattice = phase.structure.lattice
    z = np.array(zone_axis) @ lattice.base
    y = lattice.recbase @ np.array(upwards)
    y, z = y / np.linalg.norm(y), z / np.linalg.norm(z)
    return Rotation.from_matrix(np.stack([np.cross(y, z), y, z], axis=1))


def simulate(phase, rotation):
    """Spots by diffsims: (kx, ky) in Å⁻¹, Miller indices and intensities, and a pattern as a detector has it."""
    generator = SimulationGenerator(BEAM_ENERGY)
    # diffsims loses reflections of hexagonal cells near the radius: ask for more, and cut
    simulation = generator.calculate_diffraction2d(
        phase, rotation, reciprocal_radius=1.6 * RADIUS, max_excitation_error=MAX_EXCITATION_ERROR
    )
    rows, columns = CALIBRATION.shape
    row, column = CALIBRATION.center
    pattern = simulation.get_diffraction_pattern(
        CALIBRATION.shape, sigma=1.3, calibration=CALIBRATION.scale[0], direct_beam_position=(column, rows - 1 - row),
        fast=False, clip_threshold=1e-9,
    )  # fmt: skip
    pattern = np.flipud(pattern)  # diffsims draws +ky downwards
    spots = simulation.coordinates
    k, hkl, intensity = spots.data[:, :2], np.round(spots.hkl).astype(int), np.asarray(spots.intensity)
    length = np.hypot(*k.T)
    keep = (length > 0) & (length < RADIUS) & (intensity > 1e-4 * intensity[length > 0].max())
    return k[keep], hkl[keep], intensity[keep], pattern


def bragg_position(k, hkl, wanted):
    """(kx, ky) of the reflection hkl; None where it is not among the spots."""
    (found,) = np.nonzero((hkl == wanted).all(axis=1))
    return k[found[0]] if found.size else None


def same_positions(a, b, tolerance=1e-4):
    """Whether two sets of spots lie on each other."""
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return len(a) == len(b) and distance.min(axis=0).max() < tolerance and distance.min(axis=1).max() < tolerance


# %%
# How a pattern is drawn: over kx and ky, with names of reflections.


def show(axes, pattern, title):
    """Draw a pattern over (kx, ky)."""
    rows, columns = CALIBRATION.shape
    left, top = pixel_to_k(-0.5, -0.5, CALIBRATION)
    right, bottom = pixel_to_k(rows - 0.5, columns - 0.5, CALIBRATION)
    top_value = np.quantile(pattern**0.4, 0.995)
    axes.imshow(pattern**0.4, extent=(left, right, bottom, top), cmap="gray_r", vmin=0, vmax=max(top_value, 1e-6))
    axes.set(xlim=(-RADIUS, RADIUS), ylim=(-RADIUS, RADIUS), xlabel="$k_x$ (Å⁻¹)", ylabel="$k_y$ (Å⁻¹)")
    axes.set_title(title, fontsize=10, loc="left")


def ring(axes, k, color, marker="o", size=90, label=None):
    """Mark spots."""
    axes.scatter(*np.transpose(k), s=size, marker=marker, facecolors="none", edgecolors=color, label=label)


def name(axes, k, hkl, color="black"):
    """Write Miller indices beside a spot, negative ones with a bar."""
    text = "".join(rf"\bar{{{abs(i)}}}" if i < 0 else str(i) for i in hkl)
    axes.annotate(f"${text}$", k, xytext=(8, -3), textcoords="offset points", color=color, fontsize=9)


# %%
# 1. Axes of a pattern
# --------------------
# +kx is to the right, +ky is up: 020 is in a row with a smaller number than the direct beam.


def pattern_axes(axes):
    """1. +kx is to the right, +ky is up."""
    aluminium = pyxem_dl.data.aluminium()
    # no rotation at all: the crystal's a, b and c are the lab's x, y and z
    k, hkl, _, pattern = simulate(aluminium, Rotation.identity())
    right, up = (bragg_position(k, hkl, wanted) for wanted in ([2, 0, 0], [0, 2, 0]))
    a = aluminium.structure.lattice.a
    np.testing.assert_allclose(right, [2 / a, 0], atol=1e-6)
    np.testing.assert_allclose(up, [0, 2 / a], atol=1e-6)
    # in the array: 020 is above the direct beam, in a row with a smaller number
    row, column = k_to_pixel(*up, CALIBRATION)
    assert row < CALIBRATION.center[0] and abs(column - CALIBRATION.center[1]) < 1e-6
    peak = pattern[round(row) - 3 : round(row) + 4, 60]
    assert abs(np.argmax(peak) - 3) <= 1 and peak.max() > 10 * pattern[round(row), 70]
    np.testing.assert_allclose(pixel_to_k(row, column, CALIBRATION), up, atol=1e-9)
    show(axes, pattern, "1. Al, no rotation: a to the right, b up,\n    c towards the source")
    for position, indices in ((right, (2, 0, 0)), (up, (0, 2, 0))):
        axes.annotate("", position * 2.15, (0, 0), arrowprops={"arrowstyle": "->", "color": COLORS[1], "lw": 1.5})
        name(axes, position + 0.07, indices, COLORS[0])
    axes.text(1.08, 0.04, "$+k_x$", color=COLORS[1], ha="right", va="bottom")
    axes.text(0.05, 1.06, "$+k_y$", color=COLORS[1], va="center")
    axes.text(0.03, 0.03, f"020 is in row {row:.1f}, column {column:.0f}; the direct beam in (60, 60)",
              transform=axes.transAxes, fontsize=8)  # fmt: skip


# %%
# 2. The first Euler angle
# ------------------------
# It turns the spots counter-clockwise. As a product of rotations, the turn acts from the right.


def first_euler_angle(axes):
    """2. phi1 + 10 degrees turns the spots by +10 degrees."""
    phase = pyxem_dl.data.lithium_nickel_oxide()
    euler = np.array([20.0, 35.0, 10.0])
    before = simulate(phase, Rotation.from_euler(euler, degrees=True))
    after = simulate(phase, Rotation.from_euler(euler + [10, 0, 0], degrees=True))
    turned = (before[0] @ [1, 1j]) * np.exp(1j * np.deg2rad(10))
    turned = np.stack([turned.real, turned.imag], axis=1)
    assert same_positions(turned, after[0])
    # as a product the turn acts from the right
    product = Rotation.from_euler(euler, degrees=True) * Rotation.from_axes_angles([0, 0, -1], np.deg2rad(10))
    again = simulate(phase, product)
    assert same_positions(again[0], after[0])
    show(axes, after[3], "2. LiNiO$_2$: φ$_1$ = 20° (dots) and 30° (pattern):\n    spots turn counter-clockwise")
    axes.plot(*before[0].T, ".", color=COLORS[0], markersize=5)
    strongest = np.argsort(-before[2])[:8]
    for start, end in zip(before[0][strongest], turned[strongest], strict=True):
        axes.annotate("", end, start, arrowprops={
            "arrowstyle": "->", "color": COLORS[1], "connectionstyle": "arc3,rad=0.09"})  # fmt: skip


# %%
# 3. Lab to crystal
# -----------------
# A known orientation of a trigonal crystal, with its handedness: 101 is there, and its mirror image is extinct.


def lab_to_crystal(axes):
    """3. A known orientation of a trigonal crystal, with its handedness."""
    phase = pyxem_dl.data.lithium_nickel_oxide()
    rotation = along(phase, zone_axis=[0, -1, 0], upwards=[0, 0, 1])
    lattice = phase.structure.lattice
    k, hkl, _, pattern = simulate(phase, rotation)
    # g_crystal = R * g_lab
    g = Vector3d(hkl @ lattice.recbase.T)
    np.testing.assert_allclose((~rotation * g).data[:, :2], k, atol=1e-5)
    # obverse setting, -h + k + l = 3 n: 101 is there (upper right), 10-1 is not (it would be lower right)
    assert (bragg_position(k, hkl, [1, 0, 1]) > 0).all()
    assert bragg_position(k, hkl, [1, 0, -1]) is None
    np.testing.assert_allclose(bragg_position(k, hkl, [0, 0, 3]), [0, 3 / lattice.c], atol=1e-6)
    title = (
        "3. LiNiO$_2$ ($R\\bar{3}m$, obverse), $[0\\bar{1}0]$ to the source,\n    $c^*$ up: 101 is at the upper right"
    )
    show(axes, pattern, title)
    for wanted in ((0, 0, 3), (1, 0, 1), (-1, 0, 2), (-1, 0, -1)):
        name(axes, bragg_position(k, hkl, wanted), wanted, COLORS[0])
    missing = g_in_pattern(rotation, lattice, [1, 0, -1])
    axes.plot(*missing, "x", color=COLORS[1])
    axes.annotate("$10\\bar{1}$ is extinct", missing, (0.47, -0.72), color=COLORS[1], fontsize=9,
                  bbox={"fc": "white", "ec": "none", "pad": 1},
                  arrowprops={"arrowstyle": "-", "color": COLORS[1]})  # fmt: skip


def g_in_pattern(rotation, lattice, hkl):
    """(kx, ky) of a reciprocal vector."""
    return (rotation.to_matrix()[0].T @ (lattice.recbase @ np.array(hkl)))[:2]


# %%
# 4. Half a turn about the beam
# -----------------------------
# Zero-order reflections are blind to it. Here the two orientations are the twins of a Σ3 boundary.


def half_a_turn(axes):
    """4. Zero-order reflections are blind to a turn by 180 degrees about the beam."""
    aluminium = pyxem_dl.data.aluminium()
    rotation = along(aluminium, zone_axis=[1, 1, 2], upwards=[1, 1, -1])
    turned = rotation * Rotation.from_axes_angles([0, 0, 1], np.pi)
    k, hkl, intensity, pattern = simulate(aluminium, rotation)
    k_turned, _, _, pattern_turned = simulate(aluminium, turned)
    assert (hkl @ [1, 1, 2] == 0).all()  # reflections of the zero-order zone alone
    assert same_positions(k, k_turned)
    np.testing.assert_allclose(pattern, pattern_turned, atol=1e-4 * pattern.max())
    strict = disorientation(rotation.data, turned.data, aluminium)[0]
    modulo = disorientation(rotation.data, turned.data, aluminium, modulo_180=True)[0]
    assert abs(strict - 60) < 1e-3 and modulo < 1e-3
    show(axes, pattern, "4. Al along [112]: R and R turned by 180° about\n    the beam give one pattern")
    ring(axes, k, COLORS[0], label="R")
    ring(axes, k_turned, COLORS[1], "s", 150, "R · Rz(180°)")
    axes.legend(loc="upper center", ncols=2, fontsize=8)
    axes.text(0.03, 0.03, f"disorientation: strict {strict:.1f}° (the Σ3 twin), modulo 180° {modulo:.1f}°",
              transform=axes.transAxes, fontsize=8)  # fmt: skip


# %%
# 5. The Laue group
# -----------------
# What diffracts alike is alike under the Laue group, though not under the point group of gallium arsenide.


def laue_group(axes):
    """5. What diffracts alike is alike under the Laue group."""
    phase = gallium_arsenide()
    rotation = Rotation.from_euler([25, 20, 15], degrees=True)
    other = Rotation.from_axes_angles([0, 0, 1], np.pi / 2) * rotation  # 90 degrees about the crystal's c
    k, _, intensity, pattern = simulate(phase, rotation)
    k_other, _, _, pattern_other = simulate(phase, other)
    assert same_positions(k, k_other)
    np.testing.assert_allclose(pattern, pattern_other, atol=1e-4 * pattern.max())
    angles = {}
    for group in (phase.point_group, phase.point_group.laue):
        a, b = (Orientation(r, symmetry=group) for r in (rotation, other))
        angles[group.name] = float(np.rad2deg(a.angle_with(b))[0])
    assert abs(angles["-43m"] - 90) < 1e-3 and angles["m-3m"] < 1e-3
    assert disorientation(rotation.data, other.data, phase)[0] < 1e-3  # ours takes the Laue group
    show(axes, pattern, "5. GaAs ($\\bar{4}3m$): R and R turned by 90° about\n    the crystal's c give one pattern")
    ring(axes, k, COLORS[0], label="R")
    ring(axes, k_other, COLORS[1], "s", 150, "Rc(90°) · R")
    axes.legend(loc="upper center", ncols=2, fontsize=8)
    text = ", ".join(f"{angle:.1f}° under {group}" for group, angle in angles.items())
    axes.text(0.03, 0.03, f"disorientation: {text}", transform=axes.transAxes, fontsize=8)


# %%
# 6. pyxem's orientation map
# --------------------------
# It has the same orientations, and its markers lie on the spots.


def bridge_to_pyxem(axes):
    """6. pyxem's orientation map has the same orientations, and its markers lie on the spots."""
    phase = pyxem_dl.data.lithium_nickel_oxide()
    rotations = Rotation.from_euler([[20, 35, 10], [75, 60, 40], [130, 80, 5], [240, 15, 50]], degrees=True)
    y, x = np.indices((2, 2)).reshape(2, -1)
    xmap = CrystalMap(rotations, np.zeros(4, int), x, y, PhaseList(phase, ids=0), prop={"scores": np.ones(4)})
    orientation_map = pyxem_dl.to_orientation_map(
        xmap, beam_energy=BEAM_ENERGY, reciprocal_radius=RADIUS, max_excitation_error=MAX_EXCITATION_ERROR
    )
    back = orientation_map.to_crystal_map().rotations
    assert disorientation(back.data.reshape(4, 4), rotations.data, phase).max() < 1e-3
    markers = orientation_map.to_markers()[0].kwargs["offsets"]
    for i in range(4):
        k, _, _, pattern = simulate(phase, rotations[i])
        spots = np.asarray(markers[i % 2, i // 2])  # x first
        spots = spots * [1, -1]  # HyperSpy's signal axis y runs down
        distance = np.linalg.norm(spots[:, None] - k[None], axis=-1)
        assert distance.min(axis=0).max() < 1e-4  # each of our spots has its marker
        if i == 1:
            shown = pattern, spots
    show(axes, shown[0], "6. LiNiO$_2$: markers of pyxem's OrientationMap\n    on the pattern of the crystal map")
    ring(axes, shown[1], COLORS[0], label="OrientationMap.to_markers()")
    axes.legend(loc="upper center", ncols=2, fontsize=8)


# %%
# All six
# -------
# If one did not hold, the script would end here with an error.

figure, grid = plt.subplots(2, 3, figsize=(13.5, 9.2), layout="constrained", dpi=130)
panels = pattern_axes, first_euler_angle, lab_to_crystal, half_a_turn, laue_group, bridge_to_pyxem
for axes, panel in zip(grid.ravel(), panels, strict=True):
    panel(axes)
    print(f"holds: {panel.__doc__}")
figure.suptitle("Reference frames: patterns of diffsims (200 kV), flipped so that $+k_y$ is up")
figure.savefig(OUTPUT / "reference_frames.png")
print(f"In {OUTPUT}: reference_frames.png")
