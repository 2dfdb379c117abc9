"""Time, memory and arithmetic of a part: medians of timed runs, operations counted by PyTorch.

Memory is that of PyTorch's tensors on a GPU, and this process's resident memory on a CPU.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

PRODUCT_SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrix product that measures the machine's peak
PRODUCT_RUNS = 7
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # resets VmHWM (proc(5))

# The CPU's attention kernel has no FLOP formula in some versions of PyTorch since 2.11. It gets the GPU kernel's,
# whose arguments are in the same order; as in PyTorch's, positions behind a causal mask are counted.
FLASH = "_scaled_dot_product_flash_attention"
for cpu, gpu in ((f"{FLASH}_for_cpu", FLASH), (f"{FLASH}_for_cpu_backward", f"{FLASH}_backward")):
    flop_registry.setdefault(getattr(torch.ops.aten, cpu), flop_registry[getattr(torch.ops.aten, gpu)])

Section = Callable[[str], Any]  # the name of a section -> a context manager that can decorate, too


class Part(NamedTuple):
    """Something to measure: `work` runs it once on `samples`; each block `with section("name")` gets a row too."""

    name: str
    work: Callable[[Section], Any]
    samples: int


@dataclass
class Cost:
    """Cost of a run or section: seconds, counted operations, peak bytes, and peak bytes above those in use at its
    start (both 0 where memory is not known)."""

    seconds: float = 0.0
    flops: int = 0
    peak: int = 0
    added: int = 0


class TimedRun:
    """One run of a part, made on construction. `costs` holds the whole run's under "", and those of each section."""

    def __init__(self, part: Part, device: torch.device, counter: FlopCounterMode | None = None) -> None:
        self.device, self.counter, self.in_section = device, counter, False
        self.costs: dict[str, Cost] = {}
        with counter or nullcontext(), self.measured(""):
            part.work(self.section)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Measure a block, summed over all entries; a section within another counts for the outer one."""
        if self.in_section:
            yield
            return
        self.in_section = True
        with self.measured(name):
            yield
        self.in_section = False

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Add the cost of a block under a name."""
        cost = self.costs.setdefault(name, Cost())
        whole = self.costs[""]
        if name:  # the peak so far is about to be reset
            whole.peak = max(whole.peak, peak_memory(self.device))
        before = reset_peak_memory(self.device)
        started, flops = self.reading()
        yield
        ended, more_flops = self.reading()
        peak = peak_memory(self.device)
        cost.seconds += ended - started
        cost.flops += more_flops - flops
        whole.peak = max(whole.peak, peak)
        cost.peak = max(cost.peak, peak)
        cost.added = max(cost.added, cost.peak - before)

    def reading(self) -> tuple[float, int]:
        """The time after the device has finished, and the operations counted so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), self.counter.get_total_flops() if self.counter else 0


def measure(part: Part, device: torch.device, repeats: int, product_flops: float) -> list[dict[str, Any]]:
    """Rows of a part and its sections, for JSON: one run that counts operations, then `repeats` timed runs.

    `product_flops` is the machine's measured peak in operations a second.
    """
    counted = TimedRun(part, device, flop_counter()).costs
    gc.collect()
    runs = [TimedRun(part, device).costs for _ in range(repeats)]
    return [row(part, name, counted[name].flops, [run[name] for run in runs], product_flops) for name in counted]


def row(part: Part, section: str, flops: int, runs: list[Cost], product_flops: float) -> dict[str, Any]:
    """The row of a section, or of the whole part for ""; None for values that are not known or counted."""
    seconds, memory = [run.seconds for run in runs], max(run.peak for run in runs)
    return {
        "part": f"{part.name}: {section}" if section else part.name,
        "samples": part.samples,
        "seconds_per_sample": median(seconds) / part.samples,
        "samples_per_second": part.samples / median(seconds),
        "fastest_per_sample": min(seconds) / part.samples,
        "slowest_per_sample": max(seconds) / part.samples,
        "flops_per_sample": flops / part.samples or None,
        "share_of_peak": flops / median(seconds) / product_flops or None,
        "memory_peak_bytes": memory or None,
        "memory_added_bytes": max(run.added for run in runs) if memory else None,
    }


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of a few large matrix products, with the current number of threads."""
    side = PRODUCT_SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = Part("product", lambda section: a @ b, 1)
    return 2 * side**3 / min(TimedRun(product, device).costs[""].seconds for _ in range(PRODUCT_RUNS))


def reset_peak_memory(device: torch.device) -> int:
    """Reset the peak; returns the bytes in use now, 0 where that is not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not process_peak_resets():
        return 0
    RESET.write_text(RESET_PEAK)
    return status_bytes("VmRSS")


def peak_memory(device: torch.device) -> int:
    """Peak bytes in use since `reset_peak_memory`, 0 where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return status_bytes("VmHWM") if process_peak_resets() else 0


@cache
def process_peak_resets() -> bool:
    """Whether this process's peak memory can be reset."""
    try:
        RESET.write_text(RESET_PEAK)
    except OSError:  # not Linux, or not permitted in this container
        return False
    return True


def status_bytes(field: str) -> int:
    """A size in /proc/self/status, such as VmRSS."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def flop_counter() -> FlopCounterMode:
    """Counts operations of matrix products, convolutions and attention while it is open."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward})


def convolution_backward(grad: torch.Size, x: torch.Size, weight: torch.Size, *rest: Any, out_shape: Any = None) -> int:
    """Operations of a convolution's gradients, from shapes: for each wanted gradient as many as the forward pass.

    PyTorch's own formula ignores groups, which is 1,024 times too much for the fusion's depthwise convolution.
    """
    *_, transposed, _output_padding, _groups, wanted = rest
    positions = (x if transposed else grad)[2:]
    return 2 * x[0] * math.prod(positions) * math.prod(weight) * sum(wanted[:2])
