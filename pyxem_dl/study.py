"""Searches over training settings on labelled scans, with Optuna: resumable, in parallel, with a report."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import reprlib
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.checks import number, read_text, whole_number
from pyxem_dl.files import claimed, move_aside, replacing
from pyxem_dl.metrics import accuracy
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.results.labels import Labels, hold_out_region, in_lab_frame, read_labels
from pyxem_dl.results.map_files import copied_map
from pyxem_dl.training import train
from pyxem_dl.training.configuration import read_yaml

_ENTRIES = {"labelled", "truth", "output", "settings", "search", "trials", "processes", "objective", "seed", "share"}
_OBJECTIVES = ("within_5", "within_2", "median")
# Trials that differ in one of these cannot be compared.
_COMPARED = ("labelled", "truth", "settings", "search", "objective", "seed", "share")
_NAME = "study"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_LARGEST_SEARCH, _MOST_CHOICES = 64, 256


def run_study(path, *, device: str = "auto", echo=print) -> Path:
    """Search for the best training settings, as a YAML file says.

    A study that was interrupted, or has fewer trials than the file asks for, is continued; `trials` and
    `processes` may change between the calls, the rest may not, for trials are compared with each other.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the YAML file.  Its entries:

        * ``labelled``: the files [scan, labels]; ``truth``: a file with the truth, in the lab frame, if there is one.
        * ``output``: folder of the study.  These files and folders are relative to the YAML file.
        * ``settings``: those of :func:`pyxem_dl.train` that all trials share, as ``network`` and ``max_minutes``; files
          among them are relative to the working folder.
        * ``search``: for each setting that is searched a list of choices, or ``{low: , high: , log: true}``, with
          ``step`` for whole numbers (without ``log``); entries of dicts by dots, as ``network_arguments.head``.
        * ``trials``: how many (default 20); ``processes``: how many at a time (1), to which the GPUs that there are
          are dealt out; ``seed`` (0).
        * ``objective``: "within_5" (default), "within_2" or "median": of the disorientation modulo 180 degrees on a
          region of the scan that no trial is trained on; ``share``: of that region (0.2).
    device : str
        To train and predict on.
    echo : callable
        Called with lines about the progress.

    Returns
    -------
    pathlib.Path
        ``report.md``, beside which there are ``trials.csv`` and pictures.

    Raises
    ------
    ValueError, FileNotFoundError
        For a file that cannot be used; the message says why.
    """
    optuna = _optuna()
    plan = read_plan(path)
    output = plan["output"]
    with claimed(output / "study.journal"):
        return _run(optuna, path, plan, device, echo)


def _run(optuna, path, plan: dict, device: str, echo) -> Path:
    """Run a study whose folder no other process writes to."""
    output = plan["output"]
    _mend_journal(output / "study.journal", echo)
    study = _open(optuna, plan)
    _claim(study, plan)
    _take_up_again(optuna, study, echo)
    finished = _n_finished(optuna, study)
    left = plan["trials"] - finished
    echo(f"Study of {', '.join(plan['search'])}: {finished} of {plan['trials']} trials are done, see {output}")
    if left > 0:
        n = min(plan["processes"], left)
        if n == 1:
            _work(str(path), device, 0)
        else:
            with ExitStack() as stack:
                # fresh processes: torch's threads do not survive a fork
                pools = [stack.enter_context(_process(gpu)) for gpu in _dealt_gpus(n, device)]
                work = [pool.apply_async(_work, (str(path), device, i)) for i, pool in enumerate(pools)]
                for each in work:
                    each.get()
    return _report(optuna, study, plan)


def read_plan(path) -> dict:
    """Read and check the YAML file of a study; see :func:`run_study`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    plan = read_yaml(read_text(path), str(path))
    if not isinstance(plan, dict):
        raise ValueError(f"{path} has no entries; a study has: {', '.join(sorted(_ENTRIES))}.")
    unknown, missing = set(map(str, plan)) - _ENTRIES, {"labelled", "search"} - set(plan)
    if unknown or missing:
        text = f"unknown: {', '.join(sorted(unknown))}; " if unknown else ""
        raise ValueError(
            f"{path}: {text}{'missing: ' + ', '.join(sorted(missing)) + '; ' if missing else ''}a study has "
            f"{', '.join(sorted(_ENTRIES))}."
        )
    plan = {"settings": {}, "trials": 20, "processes": 1, "objective": "within_5", "seed": 0, "share": 0.2} | plan
    if plan["objective"] not in _OBJECTIVES:
        given = reprlib.repr(plan["objective"])
        raise ValueError(f"{path}: objective must be one of {', '.join(_OBJECTIVES)}, not {given}.")
    _check_plan(path, plan)
    pair = plan["labelled"]
    plan["asked"] = json.loads(json.dumps({key: plan.get(key) for key in _COMPARED}, default=str))
    plan["labelled"] = [_existing(path, file) for file in pair]
    plan["truth"] = _existing(path, plan["truth"]) if plan.get("truth") else None
    plan["output"] = path.parent / plan.get("output", path.stem)
    return plan


def _check_plan(path, plan: dict) -> None:
    """Make sure of the types and bounds of a plan's entries."""
    try:
        whole_number("trials", plan["trials"], 1, 1_000_000)
        whole_number("processes", plan["processes"], 1, 1024)
        whole_number("seed", plan["seed"], 0, 2**31 - 1)
        number("share", plan["share"], 0, 0.9, above=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    pair = plan["labelled"]
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(file, str) for file in pair):
        raise ValueError(f"{path}: labelled must be a list of two files, [scan, labels].")
    for name in ("output", "truth"):
        if plan.get(name) is not None and not isinstance(plan[name], str):
            raise ValueError(f"{path}: {name} must be a file name, not {reprlib.repr(plan[name])}.")
    for name in ("settings", "search"):
        if not isinstance(plan[name], dict) or not all(isinstance(key, str) for key in plan[name]):
            raise ValueError(f"{path}: {name} must hold entries by name, not {reprlib.repr(plan[name])}.")
    if not 1 <= len(plan["search"]) <= _LARGEST_SEARCH:
        raise ValueError(f"{path}: search has {len(plan['search'])} settings; it must have 1 to {_LARGEST_SEARCH}.")
    for name, space in plan["search"].items():
        _check_space(path, name, space)


def _check_space(path, name: str, space) -> None:
    if isinstance(space, list) and space:
        if len(space) > _MOST_CHOICES:
            raise ValueError(f"{path}: search.{name} has {len(space)} choices; at most {_MOST_CHOICES} are allowed.")
        return
    if isinstance(space, dict) and {"low", "high"} <= set(space) <= {"low", "high", "log", "step"}:
        low, high, log, step = space["low"], space["high"], space.get("log", False), space.get("step")
        plain = all(type(x) in (int, float) and math.isfinite(x) and abs(x) <= 1e15 for x in (low, high))
        if plain and low < high and isinstance(log, bool):
            if not (step is None or type(step) in (int, float) and 0 < step <= high - low):
                raise ValueError(f"{path}: search.{name}: step must be above 0, at most {high - low:g}, not {step!r}.")
            if not (log and (low <= 0 or "step" in space)):
                return
            raise ValueError(f"{path}: search.{name}: log needs a range above 0 and no step, not {space!r}.")
    raise ValueError(
        f"{path}: search.{name} must be a list of choices or {{low: , high: , log: true}}, not "
        f"{reprlib.repr(space)}."
    )


def _existing(path: Path, file) -> Path:
    found = path.parent / str(file)
    if not found.exists():
        raise FileNotFoundError(f"{path} names {str(file)!r}, but there is no file {str(found)!r}.")
    return found


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ImportError('A study needs Optuna: python -m pip install "pyxem-dl[study]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open(optuna, plan: dict, worker: int = 0):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(plan["output"] / "study.journal"))),
        study_name=_NAME, load_if_exists=True,
        direction="minimize" if plan["objective"] == "median" else "maximize",
    )  # fmt: skip
    # a study that goes on must not draw what it has drawn
    seed = plan["seed"] + 1000 * worker + 1 + 100_000 * len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=plan["processes"] > 1)
    return study


def _mend_journal(path: Path, echo) -> None:
    """Cut off what a killed process left half written: Optuna cannot read on from there."""
    if not path.exists():
        return
    whole = b""
    lines = path.read_bytes().splitlines(keepends=True)
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        whole += line
    left = sum(map(len, lines)) - len(whole)
    if left:
        aside = move_aside(path, "damaged")
        with replacing(path) as new:
            new.write_bytes(whole)
        echo(f"The last {left} bytes of {path.name} are an unfinished entry and are skipped; see {aside.name}.")


def _claim(study, plan: dict) -> None:
    """Write down what a study asks, or make sure that it asks the same."""
    before = study.user_attrs.get("asked")
    if before is None:
        study.set_user_attr("asked", plan["asked"])
        return
    changed = [key for key in _COMPARED if before.get(key) != plan["asked"][key]]
    if changed:
        raise ValueError(
            f"{plan['output']} holds a study with another {', '.join(changed)}, whose trials cannot be compared with "
            "new ones. Give another `output`, or the same entries."
        )


def _take_up_again(optuna, study, echo) -> None:
    """Put trials that were interrupted into the queue again."""
    states, again = optuna.trial.TrialState, study.user_attrs.get("tried again", [])
    for trial in study.get_trials(states=(states.RUNNING, states.FAIL)):
        if trial.state == states.RUNNING:  # its process was killed
            study.tell(trial.number, state=states.FAIL)
        elif not trial.user_attrs.get("interrupted") or trial.number in again:
            continue
        study.enqueue_trial(trial.params)
        again = [*again, trial.number]
        echo(f"Trial {trial.number} was interrupted: its settings will be tried again.")
    study.set_user_attr("tried again", again)


def _n_finished(optuna, study) -> int:
    return len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))


def _dealt_gpus(n: int, device: str) -> list[str | None]:
    """Deal the GPUs that there are out to `n` processes, in turn; None where the device is no matter of choice."""
    n_gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if n_gpus < 2:
        return [None] * n
    allowed = os.environ.get(_VISIBLE)
    names = allowed.split(",")[:n_gpus] if allowed else [str(i) for i in range(n_gpus)]
    return [names[i % n_gpus].strip() for i in range(n)]


def _process(gpu: str | None):
    """Start a process that sees one GPU, by the name that CUDA has for it, or all: a pool of one."""
    before = os.environ.get(_VISIBLE)
    if gpu is not None:
        os.environ[_VISIBLE] = gpu  # CUDA reads it once, maybe when torch is imported
    try:
        return multiprocessing.get_context("spawn").Pool(1)
    finally:
        if before is None:
            os.environ.pop(_VISIBLE, None)
        else:
            os.environ[_VISIBLE] = before


def _work(path: str, device: str, worker: int) -> None:
    """Run trials until there are as many as asked for."""
    optuna = _optuna()
    plan = read_plan(path)
    study = _open(optuna, plan, worker)
    data = _Data(plan)
    stop = optuna.study.MaxTrialsCallback(plan["trials"], states=(optuna.trial.TrialState.COMPLETE,))
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    limit = 2 * plan["trials"] + 10  # settings that fail again and again must end, too
    study.optimize(
        lambda trial: data.value(trial, device), n_trials=limit, callbacks=[stop],
        catch=(ValueError, TypeError, RuntimeError),
    )


class _Data:
    """The labelled scan of a study, and the region on which all trials are compared."""

    def __init__(self, plan: dict) -> None:
        import hyperspy.api as hs

        self.plan = plan
        scan, labels = plan["labelled"]
        self.signal = hs.load(scan, lazy=True)
        # what the settings say of the frame is allowed for when they are used
        frame = plan["settings"].get("label_frame", {})
        self.labels = read_labels(labels, crystal_x="a" if "crystal_x" in frame else None)
        self.reference = self.labels if plan["truth"] is None else read_labels(plan["truth"])
        known = Labels.from_map(self.labels)
        usable = known.known & (known.phase_id >= 0)
        region, border = hold_out_region(known.shape, usable, plan["share"], plan["seed"])
        self.region = region & usable
        self.training_labels = copied_map(self.labels, self.labels.is_in_data & ~region & ~border)
        self.shape = known.shape
        n, n_true = self.labels.is_in_data.size, self.reference.is_in_data.size
        if n != n_true:
            raise ValueError(f"The truth has {n_true} positions, the labels {n}: give the truth of the whole scan.")
        # before hours of training: phases of other names cannot be compared
        accuracy(self.of_region(self.labels), self.of_region(self.reference))

    def value(self, trial, device: str) -> float:
        """Train with the settings of a trial, and measure on the region."""
        settings = json.loads(json.dumps(self.plan["settings"]))
        for name, space in self.plan["search"].items():
            _put(settings, name, _suggest(trial, name, space))
        folder = self.plan["output"] / "trials" / f"{trial.number:04d}"
        try:
            model = train(
                labelled=[(self.signal, self.training_labels)], output=folder, device=device, overwrite=True,
                show_progressbar=False, **settings,
            )  # fmt: skip
            found = self.predict(model, device)
        except KeyboardInterrupt:
            trial.set_user_attr("interrupted", True)
            raise
        reference = self.reference
        if self.plan["truth"] is None:
            reference = in_lab_frame(reference, **settings.get("label_frame", {}))
        numbers = {kind: asdict(each) for kind, each in accuracy(found, self.of_region(reference)).items()}
        trial.set_user_attr("accuracy", numbers)
        trial.set_user_attr("size_mb", (folder / "model.safetensors").stat().st_size / 1e6)
        return float(np.nan_to_num(numbers["modulo_180"][self.plan["objective"]], nan=180.0))

    def of_region(self, xmap):
        """Make a map of nothing but the region."""
        return copied_map(xmap, self.region)

    def predict(self, model, device: str):
        """Predict the region, all of it."""
        mask = ~self.region.reshape(self.shape)
        found = predict_orientation(self.signal, model, navigation_mask=mask, device=device, show_progressbar=False)
        if found.size < self.region.sum():  # a prediction that is interrupted returns what it has
            raise KeyboardInterrupt
        return found


def _suggest(trial, name: str, space):
    if isinstance(space, list):
        # Optuna keeps choices that are plain; others go by what they look like
        plain = [c if isinstance(c, (str, int, float, bool, type(None))) else json.dumps(c) for c in space]
        chosen = trial.suggest_categorical(name, plain)
        return space[plain.index(chosen)]
    low, high, log = space["low"], space["high"], bool(space.get("log"))
    if all(isinstance(x, int) for x in (low, high)):
        return trial.suggest_int(name, low, high, step=space.get("step", 1), log=log)
    return trial.suggest_float(name, float(low), float(high), step=space.get("step"), log=log)


def _put(settings: dict, name: str, value) -> None:
    """Set an entry of nested dicts, "a.b.c"."""
    *parents, last = name.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
    settings[last] = value


# ---------------------------------------------------------------- the report
def _report(optuna, study, plan: dict) -> Path:
    """Write table and pictures of what was found."""
    output, objective = plan["output"], plan["objective"]
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not trials:
        raise RuntimeError(
            f"No trial of the study finished. Their settings are in {output / 'study.journal'}; run `pyxem-dl train` "
            "with them to see why they fail."
        )
    _write_table(study, output / "trials.csv", list(plan["search"]))
    order = sorted(trials, key=lambda t: t.value, reverse=objective != "median")
    names = list(plan["search"])
    rows = [
        "| " + " | ".join([str(t.number), *(_short(t.params.get(n)) for n in names), *_numbers(t)]) + " |"
        for t in order[:15]
    ]
    header = ["trial", *(f"`{n}`" for n in names), "within 5°", "within 2°", "median", "within 5° strict", "MB", "min"]
    pictures = _pictures(optuna, study, output, names, len(trials))
    importance = ""
    if len(trials) >= 4 and len(names) > 1 and len({t.value for t in trials}) > 1:
        shares = optuna.importance.get_param_importances(study)
        importance = "\n\n".join([
            "## What matters\nShare of the objective's variance that each setting explains, as Optuna estimates it:",
            "\n".join(["| setting | share |", "| --- | --- |", *(f"| `{n}` | {s:.0%} |" for n, s in shares.items())]),
        ])  # fmt: skip
    against = "the truth" if plan["truth"] else "the labels, all of them"
    text = "\n\n".join(part for part in [
        f"# Study {output.name}",
        f"{len(trials)} trials of {plan['settings'].get('network', 'polar')} on `{plan['labelled'][0].name}`; "
        f"objective: {objective}, modulo 180°, against {against}, on a region ({plan['share']:.0%} of the scan) that "
        "no trial was trained on.",
        "\n".join(["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |", *rows]),
        importance,
        "\n".join(f"![{name}]({name})" for name in pictures),
        f"The best model is in `trials/{order[0].number:04d}`; all trials are in `trials.csv`.",
    ] if part)  # fmt: skip
    with replacing(output / "report.md") as new:
        new.write_text(text + "\n", encoding="utf-8")
    return output / "report.md"


def _write_table(study, path: Path, names: list[str]) -> None:
    """Write all trials, the failed ones too, with their settings and accuracies."""
    kinds, numbers = ("modulo_180", "strict"), ("within_5", "within_2", "median", "percentile_90", "not_indexed")
    with replacing(path) as new, open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        measured = [f"{number}_{kind}" for kind in kinds for number in numbers]
        writer.writerow(["number", "state", "value", "minutes", *names, *measured])
        for trial in study.get_trials():
            found = trial.user_attrs.get("accuracy")
            minutes = trial.duration.total_seconds() / 60 if trial.duration else ""
            row = [trial.number, trial.state.name, trial.value, minutes, *(trial.params.get(name) for name in names)]
            writer.writerow(row + [found[kind][number] if found else "" for kind in kinds for number in numbers])


def _numbers(trial) -> list[str]:
    a = trial.user_attrs["accuracy"]
    both, strict = a["modulo_180"], a["strict"]
    minutes = trial.duration.total_seconds() / 60
    return [
        f"{both['within_5']:.1%}", f"{both['within_2']:.1%}", f"{both['median']:.2f}°", f"{strict['within_5']:.1%}",
        f"{trial.user_attrs['size_mb']:.1f}", f"{minutes:.1f}",
    ]  # fmt: skip


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pictures(optuna, study, output: Path, names: list[str], n_trials: int) -> list[str]:
    """Draw the history of the objective, and the objective over each setting."""
    import matplotlib
    from optuna.visualization import matplotlib as drawn

    made = []
    with warnings.catch_warnings(), matplotlib.rc_context({"figure.autolayout": False}):
        warnings.simplefilter("ignore")
        backend = matplotlib.get_backend()
        matplotlib.use("agg", force=True)  # no windows for pictures that go into files
        try:
            for name, draw in (("history.png", drawn.plot_optimization_history), ("settings.png", drawn.plot_slice)):
                if n_trials < 2 and name == "settings.png":
                    continue
                axes = draw(study)
                figure = np.ravel(axes)[0].figure
                if name == "settings.png":
                    figure.set_size_inches(3.6 * len(names), 3.4)
                figure.savefig(output / name, dpi=110, bbox_inches="tight")
                matplotlib.pyplot.close(figure)
                made.append(name)
        finally:
            matplotlib.use(backend, force=True)
    return made
