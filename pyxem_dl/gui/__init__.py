"""The viewer: a pattern, the spots of its orientations, and what is to be said of them, wherever the cursor is."""

from pyxem_dl.gui.answers import Candidate, Frame
from pyxem_dl.gui.explorer import Explorer
from pyxem_dl.gui.latest import Latest
from pyxem_dl.gui.opening import explore
from pyxem_dl.gui.session import Session

__all__ = ["Candidate", "Explorer", "Frame", "Latest", "Session", "explore"]
