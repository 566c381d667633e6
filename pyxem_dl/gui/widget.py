"""The viewer's face in Jupyter: one anywidget, that HyperSpy knows by the viewer's tool key."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

from hyperspy.ui_registry import TOOLKIT_REGISTRY, UI_REGISTRY

from pyxem_dl.gui.explorer import SETTINGS, TOOLKEY, Explorer

_STATIC = Path(__file__).parent / "static"
#: Parts of the module that the browser runs, in this order
_SCRIPTS = ("draw.js", "panels.js", "explorer.js")


def require_anywidget():
    """Import anywidget, or say how to get it.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import anywidget
    except ImportError as error:
        raise ImportError(
            'The viewer needs anywidget: python -m pip install "pyxem-dl[gui]", and reload the notebook.'
        ) from error
    return anywidget


@cache
def _widget_class():
    """Make the class when it is first needed: anywidget is not there without the extra."""
    anywidget = require_anywidget()

    class ExplorerWidget(anywidget.AnyWidget):
        """What is seen of an :class:`~pyxem_dl.gui.Explorer`; messages go to and fro, and nothing is kept here."""

        _esm = "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS)
        _css = (_STATIC / "explorer.css").read_text(encoding="utf-8")

        def __init__(self, explorer: Explorer, **kwargs) -> None:
            super().__init__(**kwargs)
            self.explorer = explorer
            self.on_msg(lambda widget, content, buffers: explorer.receive(content))
            explorer.attach(self._out)

        def _out(self, header: dict, buffers: list[bytes]) -> None:
            self.send(header, buffers)

        def close(self) -> None:
            """Leave the viewer, which other widgets may show."""
            with contextlib.suppress(AttributeError):
                self.explorer.detach(self._out)
            super().close()

    return ExplorerWidget


def make_widget(explorer: Explorer):
    """Make a widget that shows a viewer; any number of them may show one."""
    return _widget_class()(explorer)


class Control:
    """A setting of a viewer as a widget has it: with a ``value``."""

    def __init__(self, explorer: Explorer, name: str) -> None:
        self._explorer, self._name = explorer, name

    @property
    def value(self):
        """Of the setting, now."""
        return getattr(self._explorer, self._name)

    @value.setter
    def value(self, value) -> None:
        setattr(self._explorer, self._name, value)


class Button:
    """What a viewer does as a button has it: it can be clicked."""

    def __init__(self, explorer: Explorer, name: str) -> None:
        self._explorer, self._name = explorer, name

    def click(self) -> None:
        """Do it."""
        self._explorer.receive({"kind": self._name})


def explorer_ui(obj: Explorer, display: bool = True, **kwargs):
    """Show a viewer, or give its widget and what drives it, as HyperSpy's tool kits do.

    Parameters
    ----------
    obj : Explorer
        The viewer.
    display : bool
        Show it; else return a dictionary.

    Returns
    -------
    dict
        ``"widget"``, and ``"wdict"``: controls by name with a ``value``, and "index" and "cancel" that can be clicked.
    """
    widget = make_widget(obj)
    if display:
        from IPython.display import display as show

        show(widget)
        return None
    controls = {name: Control(obj, name) for name in SETTINGS}
    return {"widget": widget, "wdict": controls | {name: Button(obj, name) for name in ("index", "cancel")}}


def register() -> None:
    """Tell HyperSpy of the widget: for one of the tool kits that are installed, as it shows all that it knows."""
    kit = next((name for name in ("ipywidgets", "anywidget") if name in TOOLKIT_REGISTRY), None)
    if kit is not None:
        UI_REGISTRY.setdefault(TOOLKEY, {})[kit] = {"module": "pyxem_dl.gui.widget", "function": "explorer_ui"}
