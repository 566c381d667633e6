"""Check one installed pyxem_dl; the argument names a file with the paths that a checkout has under pyxem_dl/.

HyperSpy must work and find the extension, must import neither torch nor pyxem for it, and pyxem's signals must have the
methods once they are there.
"""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import hyperspy.api as hs
import numpy as np

signal = hs.signals.Signal2D(np.zeros((2, 3, 8, 8), dtype=np.uint16))
assert signal.axes_manager.signal_shape == (8, 8)
loaded = {"torch", "pyxem"} & set(sys.modules)
assert not loaded, f"import hyperspy.api and a signal imported {loaded}"

registered = {entry_point.name for entry_point in entry_points(group="hyperspy.extensions")}
assert {"pyxem_dl", "pyxem_dl._autoload"} <= registered, registered

import pyxem_dl  # noqa: E402 (the methods must be there without it, and HyperSpy has imported it)

package = Path(pyxem_dl.__file__).parent
missing = [path for path in Path(sys.argv[1]).read_text().splitlines() if not (package.parent / path).is_file()]
assert not missing, f"not installed: {missing}"

for lazy in (False, True):
    diffraction = signal.as_lazy() if lazy else signal.deepcopy()
    diffraction.set_signal_type("electron_diffraction")
    assert type(diffraction).__module__.startswith("pyxem."), type(diffraction)
    for name in ("predict_orientation", "match_templates"):
        assert callable(getattr(diffraction, name)), f"{type(diffraction).__name__} lacks {name}"

from pyxem.signals import Diffraction2D  # noqa: E402

assert Diffraction2D.predict_orientation.__module__ == "pyxem_dl.signals.diffraction"
print(f"HyperSpy {hs.__version__} with pyxem_dl {pyxem_dl.__version__} from {package}: all well")
