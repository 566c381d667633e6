"""Deep learning for HyperSpy's and pyxem's electron diffraction signals.

The public names are those of the stub ``__init__.pyi``; each is imported when it is first used. Importing the package
puts its methods on pyxem's classes as soon as pyxem is loaded, and loads neither pyxem nor torch: HyperSpy imports this
file whenever it is imported itself, so nothing here may be slow, and nothing may fail.
"""

import lazy_loader

from pyxem_dl import _autoload

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_autoload.install()

del lazy_loader
