"""Time, memory and arithmetic of a part: warm-up, medians, operations counted by PyTorch."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from utils.benchmark.memory import PeakMemory, peak_memory

PEAK_SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrix product that stands for the machine's peak
PEAK_RUNS = 5

# Attention on a CPU has a kernel of its own, for which not every PyTorch since 2.11 has a formula. It gets the
# GPU kernel's, whose arguments stand in the same order; what a causal mask leaves out is counted, as PyTorch does.
FLASH = "_scaled_dot_product_flash_attention"
for cpu, gpu in ((f"{FLASH}_for_cpu", FLASH), (f"{FLASH}_for_cpu_backward", f"{FLASH}_backward")):
    flop_registry.setdefault(getattr(torch.ops.aten, cpu), flop_registry[getattr(torch.ops.aten, gpu)])

Section = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Args:
        name: in the table.
        work: runs it once; what is done within `with section("name")` gets a row of its own. A section within
            another one belongs to that.
        samples: that one run works on.
        counted: whether it does arithmetic that PyTorch can count.
    """

    name: str
    work: Callable[[Section], Any]
    samples: int
    counted: bool = True


@dataclass(frozen=True)
class Row:
    """What was measured of a part or of one of its sections, of one run unless it says otherwise.

    Args:
        part: its name, "part: section" of a section.
        samples: of a run.
        seconds: median over the timed runs.
        fastest: of them.
        slowest: of them.
        flops: floating-point operations of matrix products, convolutions and attention; None where not counted.
        memory_peak: bytes, the largest over the timed runs; None where it is not known.
        memory_added: of them what was not held when it began, the largest likewise.
    """

    part: str
    samples: int
    seconds: float
    fastest: float
    slowest: float
    flops: int | None
    memory_peak: int | None
    memory_added: int | None


@dataclass(frozen=True)
class Once:
    """What one run took: seconds, and the bytes held when it began and at its peak."""

    seconds: float
    held: int | None
    peak: int | None


class Sections:
    """Lets sections be entered, one at a time; `watch` is what is done around each."""

    def __init__(self, watch: Section) -> None:
        self.watch, self.inside = watch, False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A section; within another one it is nothing."""
        if self.inside:
            yield
            return
        self.inside = True
        try:
            with self.watch(name):
                yield
        finally:
            self.inside = False


class Bench:
    """Measures parts on a device.

    Args:
        device: whose work is waited for.
        repeats: timed runs.
        warmup: runs before them, beside the one in which operations are counted.
    """

    def __init__(self, device: torch.device, repeats: int, warmup: int) -> None:
        self.device, self.repeats, self.warmup = device, repeats, warmup
        self.memory: PeakMemory = peak_memory(device)

    def measure(self, part: Part) -> list[Row]:
        """The part's row, and one for each of its sections."""
        flops = count_sections(part) if part.counted else {}
        for _ in range(self.warmup):
            self.run(part)
        gc.collect()
        runs = [self.run(part) for _ in range(self.repeats)]
        return [row(part, name, [run[name] for run in runs], flops.get(name)) for name in runs[0]]

    def run(self, part: Part) -> dict[str, Once]:
        """One run: of the whole under "", and of every section."""
        found: dict[str, Once] = {}
        with self.clock(found, ""):
            part.work(Sections(partial(self.clock, found)))
        whole = found.pop("")  # of whose peak only what follows the last section is left
        return {"": replace(whole, peak=highest([whole.peak, *(one.peak for one in found.values())])), **found}

    @contextmanager
    def clock(self, found: dict[str, Once], name: str) -> Iterator[None]:
        """Adds what a block took to what was found under a name."""
        held = self.memory.start()
        self.wait()
        started = time.perf_counter()
        yield
        self.wait()
        seconds, peak = time.perf_counter() - started, self.memory.stop()
        before = found.get(name, Once(0.0, held, peak))
        found[name] = Once(before.seconds + seconds, before.held, highest([before.peak, peak]))

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, dtype: torch.dtype) -> float:
        """Operations a second of the fastest of a few large matrix products, with the threads of the moment."""
        side = PEAK_SIDES[self.device.type]
        a, b = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        product = Part("peak", lambda section: a @ b, 1, counted=False)
        return 2 * side**3 / Bench(self.device, PEAK_RUNS, 2).measure(product)[0].fastest


def row(part: Part, section: str, runs: list[Once], flops: int | None) -> Row:
    """The row of a section, or of the part where that is ""."""
    seconds = [run.seconds for run in runs]
    added = None if None in (runs[0].held, runs[0].peak) else max(run.peak - run.held for run in runs)
    return Row(
        part=f"{part.name}: {section}" if section else part.name,
        samples=part.samples,
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        flops=flops,
        memory_peak=highest([run.peak for run in runs]),
        memory_added=added,
    )


def highest(peaks: Sequence[int | None]) -> int | None:
    """The largest, None where one is not known."""
    return None if None in peaks else max(peaks)


def count_sections(part: Part) -> dict[str, int]:
    """Floating-point operations of a run, under "", and of each of its sections."""
    found: dict[str, int] = {}

    @contextmanager
    def count(name: str) -> Iterator[None]:
        before = whole.get_total_flops()
        yield
        found[name] = found.get(name, 0) + whole.get_total_flops() - before

    with flop_counter() as whole:
        part.work(Sections(count))
    return {"": whole.get_total_flops(), **found}


def flop_counter() -> FlopCounterMode:
    """Counts operations of matrix products, convolutions and attention while it is open."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward})


def convolution_backward(
    grad: torch.Size, x: torch.Size, weight: torch.Size, *rest: Any, out_shape: Any = None
) -> int:  # fmt: skip
    """Operations of a convolution's gradients, by shapes: as many as forward for each that is asked for.

    PyTorch's own formula takes every group of a depthwise convolution for a whole one, 1,024 times too much for
    the fusion's.
    """
    *_, transposed, _output_padding, _groups, wanted = rest
    places = (x if transposed else grad)[2:]
    return 2 * x[0] * math.prod(places) * math.prod(weight) * sum(wanted[:2])
