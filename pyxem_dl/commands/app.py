"""The application: errors as messages, options of all commands."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

app = typer.Typer(
    name="pyxem-dl",
    help="Orientations and Bragg disks of 4D-STEM scans by deep learning, with classical methods to check against.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_settings = {"debug": False}


def command(name: str | None = None, **settings) -> Callable:
    """Make a function a command that ends with a message and an exit code where it would end with a traceback.

    `settings` are further ones of typer.
    """
    return lambda function: app.command(name, **settings)(_clear_errors(function))


def _clear_errors(command):
    """Make a command end with a message and an exit code where it would end with a traceback."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        if _settings["debug"]:
            return command(*args, **kwargs)
        try:
            with warnings.catch_warnings():
                _short_warnings()
                return command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"\n{interrupt}" if str(interrupt) else "\nInterrupted.", err=True)
            raise typer.Exit(130) from None
        except (ImportError, typer.Exit):
            raise  # for a broken installation, where it breaks is what helps
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            name = "" if isinstance(error, (ValueError, OSError)) else f" ({type(error).__name__})"
            typer.echo(f"Error{name}: {str(error).replace('overwrite=True', '--overwrite')}", err=True)
            if name:
                typer.echo("`pyxem-dl --debug ...` shows where it happened.", err=True)
            raise typer.Exit(1) from None

    return run


def _short_warnings() -> None:
    """Show warnings as one line each, and those of other packages among themselves not at all."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*hyperspy.misc.dask_utils.*")

    def show(message, category, filename, lineno, file=None, line=None):
        typer.echo(f"Warning: {message}", err=True)

    warnings.showwarning = show


def _show_version(value: bool) -> None:
    if value:
        from pyxem_dl import __version__

        typer.echo(f"pyxem-dl {__version__}")
        raise typer.Exit()


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _settings["debug"] = debug
