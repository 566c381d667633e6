"""How far a training is: a bar in a terminal or a notebook, lines at intervals where there is neither."""

from __future__ import annotations

import math
import sys
import time

from lightning.pytorch.callbacks import Callback

from pyxem_dl.messages import say
from pyxem_dl.progress import can_draw

# Seconds between two updates of a bar
_REFRESH = 0.5
# Seconds between two lines, and the share of a stage that they are apart at least
_LINE_SECONDS, _LINE_SHARE = 30.0, 0.02


class TrainingProgress(Callback):
    """Show the stage, how much of it is done by the clock or by steps, the time left, and the last numbers.

    Parameters
    ----------
    bar : bool, optional
        A bar, else lines; by default a bar in a terminal or a notebook.
    """

    def __init__(self, bar: bool | None = None) -> None:
        self.bar = can_draw() if bar is None else bar
        self._drawn = None
        self._next = 0.0

    def on_train_start(self, trainer, module) -> None:
        """Draw the bar, or write that a stage begins."""
        if not trainer.is_global_zero:
            return
        self._next = 0.0
        if self.bar:
            from tqdm.auto import tqdm

            self._drawn = tqdm(
                total=100, desc=stage_name(module), file=sys.stderr,
                bar_format="{desc}: {percentage:3.0f} %|{bar}| {postfix}",
            )  # fmt: skip
        self._show(trainer, module)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        """Show how far it is, if it is time to."""
        if trainer.is_global_zero and time.monotonic() >= self._next:
            self._show(trainer, module)

    def on_train_end(self, trainer, module) -> None:
        """Show the end."""
        if trainer.is_global_zero:
            self._show(trainer, module)
        self._close()

    def on_exception(self, trainer, module, exception) -> None:
        """Leave the bar as it is."""
        self._close()

    def _close(self) -> None:
        if self._drawn is not None:
            self._drawn.close()
            self._drawn = None

    def _show(self, trainer, module) -> None:
        share = min(1.0, module.progress)
        numbers = [f"{name} {float(value):.3g}" for name, value in trainer.progress_bar_metrics.items()]
        text = ", ".join([f"{time_text(seconds_left(module))} left", *numbers])
        if self._drawn is not None:
            self._drawn.n = round(100 * share, 1)
            self._drawn.set_postfix_str(text)
            self._next = time.monotonic() + _REFRESH
            return
        if not self.bar:
            say(f"{stage_name(module)}: {share:.0%} done, {text}")
            length = 60 * module.minutes if math.isfinite(module.minutes) else 0.0
            self._next = time.monotonic() + max(_LINE_SECONDS, _LINE_SHARE * length)


def stage_name(module) -> str:
    """Name of the stage, and which of how many it is."""
    stages = list(module.configuration.stages())
    return f"Training, {module.stage} ({stages.index(module.stage) + 1} of {len(stages)})"


def seconds_left(module) -> float:
    """Seconds until the stage ends, by the clock or by steps, whichever comes first; infinite where nobody knows."""
    left = [60 * module.minutes - module.elapsed] if math.isfinite(module.minutes) else []
    if math.isfinite(module.steps) and module.global_step and module.elapsed:
        left.append(module.elapsed / module.global_step * (module.steps - module.global_step))
    return max(0.0, min(left, default=math.inf))


def time_text(seconds: float) -> str:
    """Time as "1:02:03" or "2:03"; "an unknown time" where it is infinite."""
    if not math.isfinite(seconds):
        return "an unknown time"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
