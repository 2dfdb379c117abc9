"""Distributed processes: rank, device, process group, and collectives that also run on a single process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from utils.runtime.allocator import keep_freed_memory
from utils.runtime.errors import UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)


def rank() -> int:
    """This process's rank; 0 for a single process."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def pick_device(name: str = "auto") -> torch.device:
    """This process's device: its own GPU where there are any, else the CPU.

    Makes the GPU PyTorch's current one; on the CPU it sets the memory allocator.

    Args:
        name: "auto", "cpu", "cuda" (the GPU of this process's local rank), "cuda:N" (one process only) or "mps" (a
            Mac's GPU, for one process; never chosen by "auto", as this code has not been run on one).

    Raises:
        UserError: an unknown or absent device, or one GPU for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if (":" in name or name == "mps") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"--device {name} is one GPU, which several processes cannot share; use cuda or NPROC=1")
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {device} is not there; PyTorch finds {torch.cuda.device_count()} GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps is not there: it is the GPU of a Mac, with a PyTorch built for it; use cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    return device


@contextmanager
def process_group(device: torch.device, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """The group of a launcher's processes, destroyed at the end; nothing for a single process.

    A collective that waits longer than `timeout` for another rank ends with an error.

    After an error an NCCL group is not destroyed: that waits for all GPUs, and the other ranks are still in
    the step that failed here. The error would never be printed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    ended_well = False
    try:
        yield
        ended_well = True
    finally:
        if dist.is_initialized() and (ended_well or dist.get_backend() != "nccl"):
            dist.destroy_process_group()


def gather_lists(items: list[Any]) -> list[Any] | None:
    """The items of all ranks in one list on rank 0, in the order of ranks; None elsewhere."""
    if world_size() == 1:
        return items
    gathered: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(items, gathered)
    return None if gathered is None else [item for part in gathered for item in part]


def broadcast_from_rank0(compute: Callable[[], T] | None) -> T:
    """The result of `compute` on rank 0, on every rank; other ranks pass None.

    Raises:
        UserError: raised by `compute`, on every rank; so is an OSError of a file, for the others would wait.
    """
    result: list[Any] = [None, None]  # value, error message
    if compute is not None:
        try:
            result[0] = compute()
        except (UserError, OSError) as error:
            if world_size() == 1:
                raise
            result[1] = str(error)
    if world_size() > 1:
        dist.broadcast_object_list(result)
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]


def any_rank(flags: Sequence[bool | torch.Tensor], device: torch.device) -> list[bool]:
    """For each flag, whether any rank has it set; the same on every rank. Synchronises with the device once."""
    stacked = torch.stack([_on_device(flag, device) for flag in flags])
    if world_size() > 1:
        dist.all_reduce(stacked, op=dist.ReduceOp.MAX)
    return stacked.bool().tolist()


def _on_device(flag: bool | torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8[]; a number is written there by the device itself, since a copy of it would be waited for."""
    if isinstance(flag, torch.Tensor):
        return flag.to(device, torch.uint8)
    return torch.full((), int(flag), dtype=torch.uint8, device=device)


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The mean of a float tensor over all ranks, on every rank; `values` may be overwritten."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values / world_size()
