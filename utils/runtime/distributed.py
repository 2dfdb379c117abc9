"""Processes: rank and number, a group that is always taken down, objects gathered to rank 0."""

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
    """Of this process among all; 0 when there is one."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def pick_device(name: str = "auto") -> torch.device:
    """This process's device: its own GPU where there are any, else the CPU, which it sets the process up for.

    Args:
        name: "auto", "cpu", "cuda" (the GPU of this process's local rank) or "cuda:N" (one process only).

    Raises:
        UserError: a device that is not known or not there, or one GPU for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    if ":" in name and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"--device {name} is one GPU, which several processes cannot share; use cuda or NPROC=1")
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {device} is not there; PyTorch finds {torch.cuda.device_count()} GPUs")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    return device


@contextmanager
def process_group(device: torch.device, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """The group of a launcher's processes, taken down at the end; nothing for a single process.

    A process that waits for the others longer than `timeout` ends with an error.

    After an error NCCL's group is left to the process's end: taking it down waits for all GPUs, and
    the others are still in the step that this process has left. The error would never be told.
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
    """All processes' items in one list on rank 0, in the order of ranks; None elsewhere."""
    if world_size() == 1:
        return items
    gathered: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(items, gathered)
    return None if gathered is None else [item for part in gathered for item in part]


def broadcast_from_rank0(say: Callable[[], T] | None) -> T:
    """What `say` gives on rank 0, on every process; the others pass None.

    Raises:
        UserError: what `say` raised, on every process.
    """
    said: list[Any] = [None, None]
    if say is not None:
        try:
            said[0] = say()
        except UserError as error:
            if world_size() == 1:
                raise
            said[1] = str(error)
    if world_size() > 1:
        dist.broadcast_object_list(said)
    if said[1] is not None:
        raise UserError(said[1])
    return said[0]


def any_rank(flags: Sequence[bool | torch.Tensor], device: torch.device) -> list[bool]:
    """Of each flag whether a process has it set: the same answer everywhere. It waits for the device once."""
    told = torch.stack([torch.as_tensor(flag, device=device).to(torch.uint8) for flag in flags])
    if world_size() > 1:
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return told.bool().tolist()


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The mean of a float tensor over all processes, on each of them."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values / world_size()
