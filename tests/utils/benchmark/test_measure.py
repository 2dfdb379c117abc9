"""utils.benchmark.measure: time, memory and arithmetic as they are."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.benchmark import measure as module
from utils.benchmark.measure import (
    Part,
    Section,
    TimedRun,
    flop_counter,
    measure,
    peak_memory,
    process_peak_resets,
    product_speed,
    reset_peak_memory,
    status_bytes,
)

CPU = torch.device("cpu")


def counted(part: Part) -> dict[str, int]:
    """Operations of the whole under "", and of its sections."""
    return {name: cost.flops for name, cost in TimedRun(part, CPU, flop_counter()).costs.items()}


# Arithmetic


def test_operations_are_counted() -> None:
    q, k, v = (torch.ones(2, 3, 5, 8) for _ in range(3))
    works: dict[int, Callable[[], object]] = {
        2 * 4 * 6 * 7: lambda: nn.Linear(6, 7)(torch.ones(4, 6)),
        2 * 2 * (2 * 3) * 5 * 5 * 8: lambda: F.scaled_dot_product_attention(q, k, v),
        2 * 3 * 4 * 6 * 7: lambda: torch.baddbmm(torch.ones(3, 1, 7), torch.ones(3, 4, 6), torch.ones(3, 6, 7)),
        2 * 3 * 5 * (3 * 3 * 2) * 8 * 8: lambda: nn.Conv2d(2, 5, 3, padding=1)(torch.ones(3, 2, 8, 8)),
    }
    for expected, work in works.items():
        assert counted(Part("one", lambda section, work=work: work(), 1)) == {"": expected}


def test_attention_backward_is_two_and_a_half_times_forward() -> None:
    """It computes the scores again beside four products."""
    q, k, v = (torch.ones(2, 3, 5, 8, requires_grad=True) for _ in range(3))

    def work(section: Section) -> None:
        with section("forward"):
            out = F.scaled_dot_product_attention(q, k, v).sum()
        with section("backward"):
            out.backward()

    found = counted(Part("attention", work, 1))
    assert found["backward"] == 2.5 * found["forward"] > 0


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolutions_gradients_are_two_convolutions(groups: int) -> None:
    layers = nn.Conv2d(4, 8, 3, padding=1, groups=groups), nn.ConvTranspose2d(4, 8, 2, stride=2, groups=groups)
    for layer in layers:
        x = torch.ones(3, 4, 6, 6, requires_grad=True)

        def work(section: Section, layer: nn.Module = layer, x: torch.Tensor = x) -> None:
            with section("forward"):
                out = layer(x).sum()
            with section("backward"):
                out.backward()

        found = counted(Part("convolution", work, 1))
        assert found["backward"] == 2 * found["forward"] == 4 * 3 * 36 * layer.weight.numel()


def test_sections_share_out_the_operations() -> None:
    layer = nn.Linear(4, 4, bias=False)

    def work(section: Section) -> None:
        with section("outer"):
            layer(torch.ones(1, 4))
            with section("inner"):  # belongs to the outer one
                layer(torch.ones(1, 4))
        for _ in range(3):
            with section("again"):
                layer(torch.ones(1, 4))

    assert counted(Part("shared", work, 1)) == {"": 5 * 32, "outer": 2 * 32, "again": 3 * 32}


# Time and memory


class Fake:
    """A clock that work moves on, and a memory that work fills for as long as it takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.used, self.most = 0.0, 100, 100
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "reset_peak_memory", self.reset)
        monkeypatch.setattr(module, "peak_memory", lambda device: self.most)

    def take(self, seconds: float, memory: int) -> None:
        self.now += seconds
        self.most = max(self.most, self.used + memory)

    def reset(self, device: torch.device) -> int:
        self.most = self.used
        return self.used


def test_rows_are_medians_of_the_timed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, seconds = Fake(monkeypatch), iter([50.0, 4.0, 1.0, 2.0])  # in the first one operations are counted
    layer = nn.Linear(5, 5, bias=False)

    def work(section: Section) -> None:
        with section("first"):
            fake.take(next(seconds), 7)
        with section("second"):
            fake.take(1.0, 40)
            layer(torch.ones(2, 5))
        fake.take(1.0, 0)

    whole, first, second = measure(Part("part", work, 4), CPU, 3, product_flops=10.0)
    assert next(seconds, None) is None
    assert [one["part"] for one in (whole, first, second)] == ["part", "part: first", "part: second"]
    assert (whole["seconds_per_sample"], whole["fastest_per_sample"], whole["slowest_per_sample"]) == (1.0, 0.75, 1.5)
    assert (whole["samples"], whole["samples_per_second"]) == (4, 1.0)
    assert (first["seconds_per_sample"], second["seconds_per_sample"]) == (0.5, 0.25)
    assert [one["memory_peak_bytes"] for one in (whole, first, second)] == [140, 107, 140]
    assert [one["memory_added_bytes"] for one in (whole, first, second)] == [40, 7, 40]
    assert whole["flops_per_sample"] == second["flops_per_sample"] == 2 * 2 * 5 * 5 / 4
    assert whole["share_of_peak"] == 100 / 4.0 / 10.0 and first["flops_per_sample"] is first["share_of_peak"] is None


def test_the_peak_before_and_between_sections_belongs_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)

    def work(section: Section) -> None:
        fake.take(1.0, 80)
        with section("one"):
            fake.take(1.0, 10)

    costs = TimedRun(Part("part", work, 1), CPU).costs
    assert (costs[""].peak, costs[""].added, costs["one"].peak) == (180, 80, 110)


def test_a_section_entered_twice_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch)

    def work(section: Section) -> None:
        for memory in (30, 10):
            with section("twice"):
                fake.take(2.0, memory)

    twice = TimedRun(Part("part", work, 1), CPU).costs["twice"]
    assert (twice.seconds, twice.peak) == (4.0, 130)


def test_memory_that_is_not_known_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "process_peak_resets", lambda: False)
    (one,) = measure(Part("part", lambda section: None, 1), CPU, 1, 1.0)
    assert one["memory_peak_bytes"] is None and one["memory_added_bytes"] is None


@pytest.mark.skipif(not process_peak_resets(), reason="this kernel does not let the peak be forgotten")
def test_the_peak_of_resident_memory() -> None:
    size = 80 * 2**20
    for expected in (size, 0):  # what came before is forgotten
        before = reset_peak_memory(CPU)
        with mmap.mmap(-1, max(expected, mmap.PAGESIZE)) as block:  # not from memory that a test before this one freed
            for page in range(0, expected, mmap.PAGESIZE):
                block[page] = 1
        assert peak_memory(CPU) - before == pytest.approx(expected, abs=8 * 2**20)


def test_a_kernel_that_keeps_no_such_peak_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "RESET", tmp_path / "no" / "clear_refs")
    monkeypatch.setattr(module, "STATUS", tmp_path / "status")
    assert not process_peak_resets.__wrapped__()
    (tmp_path / "status").write_text("Name:\tx\nVmRSS:\t    12 kB\nVmHWM:\t    34 kB\n")
    assert (status_bytes("VmRSS"), status_bytes("VmHWM")) == (12 * 1024, 34 * 1024)


def test_the_machines_peak_is_that_of_a_large_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PRODUCT_SIDES, "cpu", 16)
    fake = Fake(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: fake.take(2.0, 0))
    assert product_speed(CPU, torch.float32) == 2 * 16**3 / 2.0
