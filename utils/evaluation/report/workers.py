"""Work on many pictures or masks, in forked processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")

PROCESSES = min(os.cpu_count() or 1, 8)
MANY = 64  # tasks; fewer are done before processes would have been started
CHUNK = 16


def mapped(function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """`function` of each task, in their order; an error of one is raised here."""
    if len(tasks) < MANY:
        yield from map(function, tasks)
        return
    # Forked, since a spawned process would import PyTorch first.
    with get_context("fork").Pool(PROCESSES) as pool:
        yield from pool.imap(function, tasks, CHUNK)
