"""The command line ``pyxem-dl``.

What is heavy (torch, pyxem) is imported inside the commands, so that ``pyxem-dl --help`` answers at once.
"""

# commands are listed in the order in which they are imported
from pyxem_dl.commands import scans, refining, images, training, crystals, quartets, checks  # isort: skip
from pyxem_dl.commands.app import app

__all__ = ["app", "checks", "crystals", "images", "quartets", "refining", "scans", "training"]
