"""The demo: a piece of a real scan, indexed by a network and by template matching."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path


def run(output: Path, model: str, *, with_pyxem: bool = True, device: str = "auto", echo: Callable = print) -> None:
    """Index the bundled scan, and write maps, pictures and a comparison.

    Parameters
    ----------
    output : pathlib.Path
        Folder of all that is written.
    model : str
        Name or folder.
    with_pyxem : bool
        Run pyxem's template matching, too (the slowest part).
    device : str
        Of the network and of the template matching in torch.
    echo : callable
        Which prints a line.
    """
    start = time.perf_counter()
    from pyxem_dl import data
    from pyxem_dl.models import load_model

    network = load_model(model)
    signal = data.mgo_nanocubes(lazy=True)
    echo(f"{signal.metadata.General.title}: {signal}\n{signal.metadata.General.notes}\n")
    output.mkdir(parents=True, exist_ok=True)
    if network.takes_phases:
        _calibrate(signal, network, data.mgo_phase(), device, echo)
    maps, seconds = _index(signal, network, data.mgo_phase(), device, with_pyxem)
    peaks = _peaks(signal)
    files = _write_maps(maps, output) + _draw(signal, maps, peaks, output)
    table = _comparison(signal, maps, seconds, peaks)
    (output / "comparison.md").write_text(table + "\n", encoding="utf-8")
    echo(f"\n{table}\n\n{_EXPLANATION}\n")
    echo(f"In {output}: {', '.join(files)}, comparison.md")
    echo(f"All done in {time.perf_counter() - start:.0f} s.")


_EXPLANATION = """peaks explained: share of the detected peaks that lie on a spot of the orientation found there, at
the positions that the network indexes (template matching indexes everything, vacuum too); by chance: the same with the
peaks turned about the beam.
patterns/s: from the lazy signal to the crystal map, making of templates included."""

#: How far out peaks are compared with simulated spots, and how near they must be (Å⁻¹).
_PEAK_RADIUS, _PEAK_TOLERANCE = 1.3, 0.05


def _calibrate(signal, network, phase, device: str, echo: Callable) -> None:
    """Find the scan's calibration in its own patterns, and write it into the signal."""
    from pyxem_dl.calibration import calibrate

    try:
        found = calibrate(signal, phase, model=network, device=device, on_message=echo)
    except ValueError as error:
        echo(f"The scan's own calibration stays: {error}\n")
    else:
        found.apply(signal)
        echo("")


def _index(signal, network, phase, device: str, with_pyxem: bool) -> tuple[dict, dict]:
    """Crystal maps of all methods and the seconds that they took."""
    from pyxem_dl.orientation import predict_orientation
    from pyxem_dl.template_matching import match_templates

    named = network.takes_phases and not network.phases
    # as far out as the network looks: one that takes phases looks as far as the detector goes
    radius = None if named else network.preprocessing.reciprocal_radius
    templates = functools.partial(match_templates, signal, phase, n_best=3, reciprocal_radius=radius)
    phases = phase if named else None
    methods = {
        "network": functools.partial(predict_orientation, signal, network, phases=phases, n_best=3, device=device),
        "templates (torch)": functools.partial(templates, device=device),
    }
    if with_pyxem:
        methods["templates (pyxem)"] = functools.partial(templates, engine="pyxem")
    maps, seconds = {}, {}
    for name, method in methods.items():
        start = time.perf_counter()
        maps[name] = method()
        seconds[name] = time.perf_counter() - start
    return maps, seconds


def _file_name(method: str) -> str:
    return method.replace(" (", "_").replace(")", "")


def _write_maps(maps: dict, output: Path) -> list[str]:
    """Write every map as orix' HDF5, and the network's as .ang."""
    from pyxem_dl.results.maps import save_map

    files = [save_map(output / f"{_file_name(name)}.h5", xmap, overwrite=True) for name, xmap in maps.items()]
    files.append(save_map(output / "network.ang", maps["network"], overwrite=True))
    return [file.name for file in files]


def _peaks(signal) -> list:
    """Peaks of every pattern."""
    import numpy as np

    from pyxem_dl.frames import Calibration
    from pyxem_dl.metrics import find_peaks

    calibration = Calibration.from_signal(signal)
    return find_peaks(np.asarray(signal.data).reshape(-1, *calibration.shape), calibration.center)


def _draw(signal, maps: dict, peaks: list, output: Path) -> list[str]:
    """Write the pictures."""
    from pyxem_dl import plot

    network, torch = maps["network"], maps["templates (torch)"]
    pictures = {"virtual_image": plot.virtual_image(signal, title="Virtual dark-field image, 0.3 to 1.2 Å⁻¹")}
    for name, xmap in maps.items():
        pictures[f"orientations_{_file_name(name)}"] = plot.orientation_map(
            xmap, brightness="reliability", title=f"Orientations: {name}; brightness: reliability"
        )
    pictures["reliability"] = plot.property_map(
        network, title="Reliability of the network's orientations", vmin=0, vmax=1
    )
    pictures["disorientation"] = plot.disorientation_map(
        network, torch, title="Network and template matching (torch):\ndisorientation modulo 180° about the beam"
    )
    crowded = [len(found) >= 5 for found in peaks]
    pictures["patterns"] = plot.patterns_with_spots(
        signal, {"network": network, "templates (torch)": torch},
        plot.spread_positions(network, among=crowded if any(crowded) else None), reciprocal_radius=1.6,
    )  # fmt: skip
    for name, figure in pictures.items():
        figure.savefig(output / f"{name}.png")
    return [f"{name}.png" for name in pictures]


def _comparison(signal, maps: dict, seconds: dict, peaks: list) -> str:
    """Table of what each method found, in Markdown."""
    from pyxem_dl.crystals import reflections
    from pyxem_dl.metrics import explained_peaks

    judged = maps["network"].phase_id >= 0
    there = [found if here else found[:0] for found, here in zip(peaks, judged)]
    rows = ["| method | indexed | patterns/s | peaks explained | by chance |", "| --- | --- | --- | --- | --- |"]
    for name, xmap in maps.items():
        tables = {key: reflections(phase, _PEAK_RADIUS) for key, phase in xmap.phases if key >= 0}
        found = explained_peaks(
            xmap, signal, tables, tolerance=_PEAK_TOLERANCE, reciprocal_radius=_PEAK_RADIUS, peaks=there
        ).summary()
        numbers = [f"{(xmap.phase_id >= 0).mean():.0%}", f"{xmap.size / seconds[name]:.0f}"]
        shares = [f"{found[key]:.1%}" for key in ("share", "chance")]
        rows.append(f"| {' | '.join([name, *numbers, *shares])} |")
    return "\n".join(rows)
