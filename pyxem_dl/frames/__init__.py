"""Reference frames: detector pixels, the lab, and the crystal.

This is the only room of the package that may flip a sign.  The conventions, all of
them measured against diffsims, orix and pyxem in ``tests/test_frames.py``:

* **Lab frame**: x to the right of the pattern, y up, z towards the electron source.
* **Pattern**: an array ``pattern[row, column]``; +kx is +column, +ky is -row.  k is in
  Å⁻¹ (crystallographer's convention, without 2 pi).
* **Orientation**: an orix rotation R takes lab to crystal coordinates,
  ``g_crystal = R * g_lab`` and ``g_lab = ~R * g_crystal``.  Quaternions are (w, x, y, z).
* **In-plane rotation**: turning the crystal about the beam by +a degrees turns the spots
  by +a in (kx, ky) and adds +a to the first Euler angle of R (Bunge, degrees).
* **Ewald sphere**: its centre lies at ``(0, 0, +1 / wavelength)``; the excitation error is
  positive for a reflection on the origin's side of the sphere's surface, that is below it
  (``s = z_sphere - z``), as in diffsims.
* **Merlin's .mib files** hold the last row of a pattern first.  RosettaSciIO (``hs.load``) turns them, LiberTEM does
  not: what that gives has to be turned before it is a pattern in this sense (``tests/test_formats.py``).
* **The 180 degree ambiguity**: zero-order reflections alone cannot tell R from
  ``R * Rz(180)``.
"""


from pyxem_dl.electrons import (  # by their old names
    HOW_TO_SET_BEAM_ENERGY,
    beam_energy_of,
    electron_wavelength,
    interaction_parameter,
    read_beam_energy,
)
from pyxem_dl.frames.calibration import (
    STORED_DISTORTION,
    UNDONE_DISTORTION,
    Calibration,
    beam_drift_to_axes,
    beam_shift_to_center,
    centers_of_drift,
    distorted,
    drift_over_scan,
    grid_center,
    grid_to_pattern,
    k_to_pixel,
    k_to_vector,
    pixel_to_k,
    scan_places,
    stored_distortion,
    undistorted,
    vector_to_k,
    vector_undistorted,
)
from pyxem_dl.frames.ewald import (
    direction_of_tilt,
    excitation_error,
    excitation_error_after_tilt,
    excitation_error_in_disk,
    excitation_phase,
    laue_circle_center,
    out_of_plane,
    zone_axis_after_tilt,
)
from pyxem_dl.frames.real_space import (
    ImageCalibration,
    drift_gradient,
    drift_of_strain,
    length_in_angstrom,
    length_unit,
)
from pyxem_dl.frames.turns import (
    MIRROR_QUATERNION,
    after_turn,
    angle_before_turn,
    before_turn,
    euler_to_quaternion,
    image_to_lab,
    in_plane_angle,
    in_plane_quaternion,
    lab_to_box,
    lab_to_image,
    mirror,
    mirror_angle,
    other_crystal_quaternion,
    other_frame_quaternion,
    quaternion_to_euler,
    repair_pyxem_orientation,
    tilt_quaternion,
    upside_down,
    zone_axis_quaternion,
)

__all__ = [
    "Calibration",
    "HOW_TO_SET_BEAM_ENERGY",
    "ImageCalibration",
    "MIRROR_QUATERNION",
    "after_turn",
    "STORED_DISTORTION",
    "UNDONE_DISTORTION",
    "angle_before_turn",
    "beam_drift_to_axes",
    "beam_energy_of",
    "beam_shift_to_center",
    "before_turn",
    "centers_of_drift",
    "distorted",
    "drift_gradient",
    "drift_of_strain",
    "drift_over_scan",
    "electron_wavelength",
    "euler_to_quaternion",
    "excitation_error",
    "excitation_error_after_tilt",
    "direction_of_tilt",
    "excitation_error_in_disk",
    "excitation_phase",
    "grid_center",
    "grid_to_pattern",
    "image_to_lab",
    "in_plane_angle",
    "in_plane_quaternion",
    "interaction_parameter",
    "k_to_pixel",
    "k_to_vector",
    "lab_to_box",
    "lab_to_image",
    "length_unit",
    "laue_circle_center",
    "length_in_angstrom",
    "mirror",
    "mirror_angle",
    "other_crystal_quaternion",
    "other_frame_quaternion",
    "out_of_plane",
    "pixel_to_k",
    "quaternion_to_euler",
    "read_beam_energy",
    "repair_pyxem_orientation",
    "scan_places",
    "stored_distortion",
    "tilt_quaternion",
    "undistorted",
    "upside_down",
    "vector_to_k",
    "vector_undistorted",
    "zone_axis_after_tilt",
    "zone_axis_quaternion",
]
