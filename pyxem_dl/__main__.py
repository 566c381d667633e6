"""The command line, see :mod:`pyxem_dl.commands`."""

import sys

from pyxem_dl.commands import app

if __name__ == "__main__":
    sys.exit(app())
