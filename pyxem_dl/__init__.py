"""Deep learning for HyperSpy's and pyxem's electron diffraction signals.

The public names are those of the stub ``__init__.pyi``; each is imported when it is first used. Importing the package
puts its methods on pyxem's classes as soon as pyxem is loaded, and loads neither pyxem nor torch: HyperSpy imports this
file whenever it is imported itself, so nothing here may be slow, and nothing may fail, whatever is missing or broken.
"""

__version__ = "0.1.0"

try:
    from pyxem_dl import _autoload

    __getattr__, __dir__, __all__ = _autoload.public_names(__name__, __file__, __loader__)
    _autoload.install()
except (Exception, SystemExit) as error:
    _reason = f"{type(error).__name__}: {error}"
    __all__ = []

    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"pyxem_dl is damaged ({_reason}). Install it again: python -m pip install -U pyxem-dl")
