"""A GPU pretended on the CPU: its tensors say cuda:0, compute on the CPU, and tell where the host waits for them.

    with PretendedGPU() as gpu:
        model.to(gpu.device)(batch.to(gpu.device))
    print(gpu.waits)

What a GPU refuses is refused: operations on tensors of both sides. What makes the host wait is counted by the line
that asks for it: a number that is read, a size that depends on contents, indices that are masks or lie on the CPU,
and copies that were not asked to go on by themselves. Backward passes are watched as well.

To PyTorch's own C++ code the tensors are on the meta device, for which it has everything that it asks of a device;
what Python code asks for says cuda:0. So models are read, which goes by the meta device, before it is open. Nothing
else of a real GPU is imitated, neither its rounding nor autocast.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

CHECKOUT = Path(__file__).resolve().parents[1]
OURS = tuple(f"{CHECKOUT}/{room}/" for room in ("model", "utils", "tests"))  # whose lines are named
GPU = torch.device("cuda:0")
THERE = ("cuda", "meta")  # what a device is called that is the GPU

aten = torch.ops.aten
INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
WAITING = {  # what comes out, or its size, depends on contents
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_dim.default,
}


class MixedDevicesError(RuntimeError):
    """An operation on tensors of the CPU and of the GPU."""


class OnGPU(Tensor):
    """A tensor of the pretended GPU; `held`, on the CPU, is what it holds."""

    held: Tensor
    device = GPU
    is_cuda, is_meta = True, False

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.shape, device="meta", **layout)
        made.held = held
        return made

    def tolist(self) -> Any:
        """By way of the CPU, as a GPU's; PyTorch's own reads the memory, of which there is none here."""
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"OnGPU({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        raise RuntimeError(f"{func} on the pretended GPU after its end")


class PretendedGPU(TorchDispatchMode):
    """While it is open, cuda:0 is there.

    Attributes:
        waits: how often the host waited, by place ("model/pixdlm.py:12 forward") and reason.
    """

    device = GPU

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> PretendedGPU:
        if torch.cuda.is_available():
            torch.cuda.init()  # a device that is named for the first time would do it, below in vain
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        self.undo = [
            replaced(torch.cuda, "_lazy_init", lambda: None),
            replaced(torch, "tensor", by_copy(torch.tensor)),
            replaced(torch, "as_tensor", by_copy(torch.as_tensor)),
            replaced(_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: list(THERE)),
            # In inference mode tensors of another class cannot be viewed, and operations come here in one piece.
            replaced(torch._C, "_InferenceMode", lambda on: torch.no_grad() if on else nullcontext()),
            lambda: torch.__future__.set_overwrite_module_params_on_conversion(overwrites),
        ]
        # The data of a parameter cannot become a tensor of another class, so one that moves is made anew.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for undo in self.undo:
            undo()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._fused_sdp_choice.default:
            return 0  # plain products, which every device has
        if func is aten.copy_.default:
            return computed(func, args, kwargs, self.check_copy(args[1], isinstance(args[0], OnGPU), *args[2:]))
        tensors = tensors_in((args, kwargs))
        there = any(isinstance(one, OnGPU) for one in tensors)
        named = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type in THERE
        if func is aten._to_copy.default:
            there = self.check_copy(args[0], there if named is None else named, kwargs.get("non_blocking", False))
        else:
            if there:
                self.check_operation(func, args, tensors)
            there = there if named is None else named
        return computed(func, args, kwargs, there)

    def check_copy(self, source: Tensor, there: bool, goes_on: bool = False) -> bool:
        """Count a copy between the sides that the host waits for; returns whether it ends `there`.

        Raises:
            RuntimeError: a copy to the CPU is not waited for, so that what is read there may be anything.
        """
        if isinstance(source, OnGPU) != there:
            if goes_on and not there:
                raise RuntimeError(f"copied to the CPU without waiting for it, at {place()}")
            if not goes_on:
                self.waits[place(), "copy to the GPU" if there else "copy to the CPU"] += 1
        return there

    def check_operation(self, func: Any, args: tuple, tensors: list[Tensor]) -> None:
        """Count what the host waits for.

        Raises:
            MixedDevicesError: a tensor is on the CPU, where only single numbers and indices may be.
        """
        here = [one for one in tensors if not isinstance(one, OnGPU) and one.dim()]
        if func in INDEXING and isinstance(args[0], OnGPU):
            indices = [one for one in args[1] if one is not None]
            if any(one.dtype in (torch.bool, torch.uint8) for one in indices):
                self.waits[place(), "index by a mask"] += 1
            elif not all(isinstance(one, OnGPU) for one in indices):
                self.waits[place(), "index on the CPU"] += 1
            here = [one for one in here if not any(one is index for index in indices)]
        if here:
            raise MixedDevicesError(f"{func}: {[tuple(one.shape) for one in here]} on the CPU, at {place()}")
        if func in WAITING:
            self.waits[place(), func._schema.name.removeprefix("aten::")] += 1


def computed(func: Any, args: tuple, kwargs: dict, there: bool) -> Any:
    """What an operation gives on the CPU, and `there` if it is; a tensor that was changed in place stays the one."""
    given = {id(one.held): one for one in tensors_in((args, kwargs)) if isinstance(one, OnGPU)}
    args, kwargs = changed((args, kwargs), lambda one: one.held if isinstance(one, OnGPU) else one)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    made = func(*args, **kwargs)
    return changed(made, lambda one: given[id(one)] if id(one) in given else OnGPU(one)) if there else made


def tensors_in(given: Any) -> list[Tensor]:
    """All tensors of an operation's arguments, in lists and dictionaries as well."""
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, dict):
        given = given.values()
    elif not isinstance(given, (list, tuple)):
        return []
    return [tensor for one in given for tensor in tensors_in(one)]


def changed(given: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy with `change` done to them."""
    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, dict):
        return {name: changed(one, change) for name, one in given.items()}
    return type(given)(changed(one, change) for one in given) if isinstance(given, (list, tuple)) else given


def place() -> str:
    """The line that is being run: of model/ or utils/ if there is one, else of the test."""
    lines = []
    for frame, number in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if file.startswith(OURS) and file != __file__:
            lines.append(f"{file.removeprefix(f'{CHECKOUT}/')}:{number} {frame.f_code.co_name}")
    return next((line for line in lines if not line.startswith("tests")), lines[0] if lines else "elsewhere")


def replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute; what is returned sets it back."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def by_copy(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` or `torch.as_tensor`: what they make on the CPU, and then the copy, which they hide."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = data if isinstance(data, Tensor) and make is not TENSOR else make(data, *args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


TENSOR = torch.tensor
