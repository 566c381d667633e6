"""What is done with each frame of a series: by a runner for what is in memory, lazily for what is not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.devices import one_core_each
from pyxem_dl.images.series import Images, usable_frame, warn_of_unusable
from pyxem_dl.images.signals import lazy_frames
from pyxem_dl.scans import Collected, Computing, Field, Job, Step

#: Field of a frame that tells whether it was used
USABLE = "usable"


class FrameStep(Step):
    """What is done with one frame of a series; frames that cannot be used are told apart."""

    micro_batch, keep_every = 1, 64
    noun = "frames"

    @property
    @abstractmethod
    def found(self) -> dict[str, Field]:
        """What is found in a frame."""

    @abstractmethod
    def of_frame(self, frame: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
        """Find it, in a frame (rows, columns) with finite values; `index` is that of the frame in the series."""

    @abstractmethod
    def of_nothing(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what there is of a frame that cannot be used; on the device of a tensor."""

    @property
    def fields(self) -> dict[str, Field]:
        """What is found, and whether the frame could be used."""
        return self.found | {USABLE: Field((), "bool")}

    def __call__(self, frames: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Do it with some frames (n, rows, columns)."""
        found, usable = [], []
        for frame, index in zip(frames, indices.tolist()):
            values = usable_frame(frame)
            usable.append(values is not None)
            found.append(self.of_nothing(frames) if values is None else self.of_frame(values, index))
        columns = {name: torch.stack([each[name] for each in found]) for name in self.found}
        return columns | {USABLE: torch.tensor(usable)}


def in_threads(work: Callable, parts: list, device: torch.device) -> list:
    """Do some work with each part of a frame: on a CPU in as many threads as torch has, each on one core.

    Many small operations are faster side by side than each on all cores, and far faster where others compute, too.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if device.type != "cpu" or threads < 2:
        return [work(part) for part in parts]

    def here(part):
        with torch.inference_mode():  # which holds for one thread only
            return work(part)

    with one_core_each(threads) as pool:
        return list(pool.map(here, parts))


def made_of(title: str, lines: dict, signal, images: Images, step: FrameStep, computing: Computing) -> dict:
    """Arrays of all frames by name, of the shape of the series: lazy ones of a lazy series, else computed."""
    if images.is_lazy:
        return lazy_frames(images, step, computing)
    return Job(title, lines, images, step, computing, Arrays(images.shape), [], signal).run()


@dataclass(frozen=True)
class Arrays:
    """Puts the arrays of all frames into the shape of the series.

    Parameters
    ----------
    shape : tuple of int
        Of the series.
    """

    shape: tuple[int, ...]

    kind = "arrays of images"

    def __call__(self, found: Collected) -> dict:
        """Arrays by name; says how many frames could not be used."""
        warn_of_unusable(found.arrays[USABLE][found.done])
        return {name: values.reshape((*self.shape, *values.shape[1:])) for name, values in found.arrays.items()}

    def to_dict(self) -> dict:
        """Shape of the series."""
        return {"shape": list(self.shape)}
