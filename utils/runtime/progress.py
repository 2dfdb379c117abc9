"""A progress bar, also where tqdm is not installed yet."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class PlainBar:
    """Replaces tqdm where it is not installed: a log line every few seconds."""

    def __init__(self, total: int, desc: str, initial: int = 0) -> None:
        self.total, self.desc, self.n = total, desc, initial
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def update(self, count: int) -> None:
        """Advance by `count` bytes."""
        self.n += count
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            logger.info("%s: %.0f of %.0f MB", self.desc, self.n / 1e6, self.total / 1e6)

    def __enter__(self) -> PlainBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def byte_bar(total: int, desc: str, initial: int = 0) -> Any:
    """A progress bar over `total` bytes, `initial` of them done: tqdm's, else a `PlainBar`. A context manager."""
    try:
        from tqdm import tqdm
    except ImportError:
        return PlainBar(total, desc, initial)
    return tqdm(total=total, desc=desc, initial=initial, unit="B", unit_scale=True, unit_divisor=1000)
