"""The peak of memory while something runs: of the GPU, or of this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what the kernel takes for "forget the peak" (proc(5))
SAMPLING_SECONDS = 0.002


class PeakMemory(Protocol):
    """`start` forgets what was and gives what is held, `stop` gives the peak since then; bytes, None if not known."""

    how: str

    def start(self) -> int | None: ...

    def stop(self) -> int | None: ...


class CudaPeak:
    """What PyTorch's allocator had given out on a GPU."""

    how = "GPU memory allocated by PyTorch"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def stop(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


class ResidentPeak:
    """Resident memory of this process, the kernel's own count: exact."""

    how = "resident memory of the process, by the kernel"

    def start(self) -> int:
        RESET.write_text(RESET_PEAK)
        return status_bytes("VmRSS")

    def stop(self) -> int:
        return status_bytes("VmHWM")


class SampledPeak:
    """Resident memory of this process, looked at every few milliseconds; for kernels that keep no resettable peak."""

    how = f"resident memory of the process, sampled every {SAMPLING_SECONDS * 1000:g} ms"

    def __init__(self) -> None:
        self.peak = 0
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self) -> int:
        self.end()
        held = self.peak = status_bytes("VmRSS")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, args=(self.ended,), daemon=True)
        self.thread.start()
        return held

    def watch(self, ended: threading.Event) -> None:
        """Runs in the thread."""
        while not ended.wait(SAMPLING_SECONDS):
            self.peak = max(self.peak, status_bytes("VmRSS"))

    def end(self) -> None:
        """The thread, where one runs."""
        self.ended.set()
        if self.thread is not None:
            self.thread.join()

    def stop(self) -> int:
        self.end()
        self.peak = max(self.peak, status_bytes("VmRSS"))
        return self.peak


class NoPeak:
    """Where the system tells nothing of this kind."""

    how = "not known on this system"

    def start(self) -> None:
        return None

    def stop(self) -> None:
        return None


def peak_memory(device: torch.device) -> PeakMemory:
    """The best way that device and system have."""
    if device.type == "cuda":
        return CudaPeak(device)
    if not STATUS.is_file():
        return NoPeak()
    try:
        RESET.write_text(RESET_PEAK)
    except OSError:  # another system, or a container that does not let it
        return SampledPeak()
    return ResidentPeak()


def status_bytes(field: str) -> int:
    """A size in /proc/self/status, such as VmRSS."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
