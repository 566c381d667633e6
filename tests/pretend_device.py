"""A GPU that nobody has: its tensors say that they are on "cuda", and hold their numbers in the CPU's memory.

What runs on it gives the answers of a CPU, so that code which looks at its numbers runs too.  Every operation passes
through one place, where it is checked as a real device would (all tensors on it, generators too), and where all that
makes the host wait for the device, and all that is sent to it, is written down.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CUDA = torch.device("cuda", 0)
_ATEN = torch.ops.aten
# What a device cannot do without telling the host: the shape of its result, a number, or that it has converged
_WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "unique_dim", "_unique", "_unique2",
    "unique_consecutive", "unique_dim_consecutive", "linalg_matrix_exp", "_linalg_svd", "linalg_lstsq", "_linalg_eigh",
    "linalg_eig", "histc",
}  # fmt: skip
# What torch marks in a tensor to be done later is done at once: nobody here would look at the mark
_AT_ONCE = {"_conj": _ATEN.conj_physical.default, "_neg_view": _ATEN.neg.default}
_COPIES = {"_to_copy", "copy_", "_copy_from", "index_put_", "index_put", "index", "lift_fresh"}


class OnDevice(torch.Tensor):
    """A tensor of the device; ``held`` has its numbers.

    For Python it is on "cuda".  For C++ it is on "meta": a "cuda" there would be looked for.
    """

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        strided = held.layout == torch.strided
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device="meta", requires_grad=held.requires_grad,
            **({"strides": held.stride(), "storage_offset": held.storage_offset()} if strided else {}),
        )  # fmt: skip

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} of a tensor on the device, outside of the block in which there is one")

    def __repr__(self) -> str:
        return f"OnDevice({self.held!r})"


class _Generator(torch.Generator):
    """A generator that says that it is where it should be."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.where = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.where


def _is_ours(x) -> bool:
    return isinstance(x, OnDevice)


class _Device(TorchDispatchMode):
    """See :func:`pretend_device`."""

    def __init__(self) -> None:
        super().__init__()
        #: Places in our code: how often the host waits for the device there, and how often something is sent to it
        self.waits, self.uploads = Counter(), Counter()
        self.n_calls = 0

    def note_wait(self, name: str) -> None:
        """Write down that the host waited here."""
        self._note(self.waits, name)

    def _note(self, where: Counter, name: str) -> None:
        place = "outside"
        for frame in reversed(traceback.extract_stack()):
            if "/pyxem_dl/" in frame.filename:
                place = f"{frame.filename.rsplit('/pyxem_dl/', 1)[1]}:{frame.lineno} {frame.line}"
                break
        where[f"{name}: {place}"] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function._schema.name.split("::")[1]
        flat, spec = tree_flatten((args, kwargs))
        tensors = [x for x in flat if isinstance(x, torch.Tensor)]
        target = kwargs.get("device")
        to_device = target is not None and torch.device(target).type in ("cuda", "meta")
        ours = any(map(_is_ours, tensors))
        if name in ("_pin_memory", "pin_memory", "is_pinned"):
            return _pinned(function, name, tensors[0])
        if not ours and not to_device:
            return function(*args, **kwargs)
        self.n_calls += 1
        self._check(function, name, tensors)
        self._count(name, args, kwargs, tensors, to_device)
        held = [x.held if _is_ours(x) else x for x in flat]
        held_args, held_kwargs = tree_unflatten(held, spec)
        if "device" in held_kwargs and held_kwargs["device"] is not None:
            held_kwargs["device"] = torch.device("cpu")
        if name == "_to_copy":
            held_kwargs.pop("non_blocking", None)
        result = _AT_ONCE.get(name, function)(*held_args, **held_kwargs)
        comes_back = target is not None and torch.device(target).type == "cpu"
        into_host = name == "copy_" and not _is_ours(args[0])
        if name == "_local_scalar_dense" or comes_back or into_host:
            return args[0] if into_host else result
        same = {id(x.held): x for x in flat if _is_ours(x)}

        def wrapped(x):
            if not isinstance(x, torch.Tensor):
                return x
            return same[id(x)] if id(x) in same else OnDevice(x)

        return tree_map(wrapped, result)

    def _check(self, function, name: str, tensors) -> None:
        if name in _COPIES:
            return
        if any(not _is_ours(x) and x.ndim for x in tensors):
            raise RuntimeError(f"{function}: tensors on the device and on the CPU: {[x.device for x in tensors]}")

    def _count(self, name: str, args, kwargs, tensors, to_device: bool) -> None:
        if name in _WAITS:
            self._note(self.waits, name)
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self._note(self.waits, name)
        if name in ("index", "index_put", "index_put_"):
            for index in args[1]:
                if index is None:
                    continue
                if index.dtype in (torch.bool, torch.uint8):
                    self._note(self.waits, f"{name} with a mask")
                if not _is_ours(index):
                    self._note(self.uploads, f"{name} with an index of the host")
        if name == "_to_copy":
            if not to_device and kwargs.get("device") is not None:
                self._note(self.waits, "copy to the host")
            elif not _is_ours(args[0]):
                self._note_upload(args[0], kwargs)
        if name == "copy_":
            if not _is_ours(args[0]):
                self._note(self.waits, "copy to the host")
            elif not _is_ours(args[1]):
                self._note(self.uploads, "copy")

    def _note_upload(self, x, kwargs) -> None:
        """A copy from pinned memory that nobody waits for costs nothing."""
        if not (kwargs.get("non_blocking") and getattr(x, "is_pinned_here", False)):
            self._note(self.uploads, "copy")


def _pinned(function, name: str, x):
    if name == "is_pinned":
        return getattr(x, "is_pinned_here", False)
    x = x.clone()
    x.is_pinned_here = True
    return x


class _Calls(TorchFunctionMode):
    """Refuse a generator of another device than the numbers, and make tensors of lists as torch does: here first."""

    def __init__(self, device: _Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        self._check_generator(function, args, kwargs)
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return function(*args, **kwargs).to(_known_to_torch(device))
        if function is torch.Tensor.tolist and _is_ours(args[0]):
            self.device.note_wait("tolist")
            return args[0].held.tolist()
        if function is torch.Tensor.to:
            args = (args[0], *map(_known_to_torch, args[1:]))
        if kwargs.get("device") is not None:
            kwargs["device"] = _known_to_torch(kwargs["device"])
        if function is torch.Tensor.new_tensor and _is_ours(args[0]):
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.tensor(args[1], dtype=dtype).to("meta")
        return function(*args, **kwargs)

    def _check_generator(self, function, args, kwargs) -> None:
        generator = kwargs.get("generator")
        if generator is not None:
            first = args[0].device if args and isinstance(args[0], torch.Tensor) else "cpu"
            device = torch.device(kwargs.get("device") or first)
            if device.type != torch.device(generator.device).type:
                raise RuntimeError(f"{function}: a generator on {generator.device} for numbers on {device}")


def _known_to_torch(x):
    """Name the device as C++ knows it."""
    there = isinstance(x, (str, torch.device)) and torch.device(x).type == "cuda"
    return torch.device("meta") if there else x


@contextmanager
def pretend_device():
    """Let there be a device "cuda" for a block.

    Yields
    ------
    _Device
        With ``waits`` and ``uploads``, counted by place in our code; clear them after what is made only once.
    """
    with (
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None),
        mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_, **__: False),
        mock.patch.object(torch, "Generator", _Generator),
        # without it torch takes composite operations apart before they come here
        mock.patch.object(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext()),
        _Device() as device,
        _Calls(device),
    ):
        yield device
