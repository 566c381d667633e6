"""Colour keys of orientations, and where an orientation lies in them."""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np

from pyxem_dl.symmetry import laue_group, setting

#: Lab directions that a map can be coloured by
DIRECTIONS = ("z", "x", "y")
_AXES = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


class ColorKey:
    """The inverse pole figure key of a phase as a picture.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        Of which the Laue group counts.
    """

    def __init__(self, phase) -> None:
        from orix.quaternion import Rotation

        self.name, self._laue = phase.name, laue_group(phase)
        # to the axes that orix takes for the Laue group, where the cell has others
        self._setting = ~Rotation(setting(phase).numpy())

    @cached_property
    def _drawn(self) -> tuple[bytes, object]:
        """PNG, and what takes (x, y) of the projection to shares of the picture's width and height, from its top."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from orix import plot as _registers_the_projection  # noqa: F401

        figure = Figure((2.4, 2.2), dpi=100)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.14, 0.14, 0.72, 0.72), projection="ipf", symmetry=self._laue)
        axes.plot_ipf_color_key(show_title=False)
        for text in axes.texts:
            text.set_fontsize(9)
        file = io.BytesIO()
        figure.savefig(file, format="png", transparent=True)
        width, height = figure.canvas.get_width_height()

        def shares(xy):
            points = axes.transData.transform(xy)
            return np.stack([points[:, 0] / width, 1 - points[:, 1] / height], axis=1)

        return file.getvalue(), shares

    @property
    def png(self) -> bytes:
        """Picture of the key."""
        return self._drawn[0]

    def places(self, rotation) -> np.ndarray:
        """Where an orientation lies in the picture.

        Parameters
        ----------
        rotation : array, shape (4,)
            Lab to crystal.

        Returns
        -------
        array, shape (3, 2)
            For each of :data:`DIRECTIONS`, from the left and from the top, as shares of the picture's width and height.
        """
        from orix.quaternion import Rotation

        matrices, normals = self._sector
        # (3, directions), along the crystal's axes
        directions = (self._setting * Rotation(rotation)).to_matrix()[0] @ _AXES.T
        alike = np.einsum("nij,jk->kni", matrices, directions)
        # the one that is furthest inside: rounding must not leave one on an edge out
        inside = (alike @ normals.T).min(-1) if len(normals) else alike[..., 2]
        x, y, z = np.take_along_axis(alike, inside.argmax(1)[:, None, None], 1)[:, 0].T
        return self._drawn[1](np.stack([x, y], axis=1) / (1 + np.abs(z))[:, None])

    @cached_property
    def _sector(self) -> tuple[np.ndarray, np.ndarray]:
        """Operations of the group (n, 3, 3), and normals of the sector's edges (m, 3)."""
        from orix.vector import Vector3d

        matrices = self._laue.outer(Vector3d(np.eye(3))).data.reshape(-1, 3, 3).transpose(0, 2, 1)
        return matrices, np.asarray(self._laue.fundamental_sector.data).reshape(-1, 3)
