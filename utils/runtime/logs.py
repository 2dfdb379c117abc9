"""Logging on rank 0: to the terminal without breaking progress bars, and to a file."""

from __future__ import annotations

import logging
import resource
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from utils.runtime.distributed import rank
from utils.runtime.files import end_last_line

NOISY = ("DeepSpeed", "transformers", "httpx", "huggingface_hub", "PIL", "deepspeed", "torch.distributed")


class TqdmHandler(logging.Handler):
    """Writes lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def start_logging(file: Path | None = None) -> None:
    """Set up the root logger; ranks other than 0 log errors only.

    Args:
        file: to append the lines to as well.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    line = logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
    handlers: list[logging.Handler] = [TqdmHandler()]
    if file is not None and rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        end_last_line(file)
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(line)
        root.addHandler(handler)
    for name in NOISY:
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)
        # DeepSpeed and transformers bring handlers of their own, which would write through the bars.
        library.handlers.clear()
        library.propagate = True


def peak_memory_gib() -> float:
    """Peak memory so far, in GiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_process_gib()


def peak_process_gib() -> float:
    """Peak resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
