"""utils.benchmark: time, memory and arithmetic as they are; tables, comparisons, options."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.benchmark import measure as module
from utils.benchmark.measure import Bench, Once, Part, Row, Section, count_sections, row
from utils.benchmark.memory import CudaPeak, NoPeak, PeakMemory, ResidentPeak, SampledPeak, peak_memory, status_bytes
from utils.benchmark.results import comparison, read_results, record, table
from utils.benchmark.run import throughput_ratios
from utils.cli.benchmark_options import parse_benchmark
from utils.runtime.errors import UserError
from utils.runtime.files import write_json

CPU = torch.device("cpu")


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
        assert count_sections(Part("one", lambda section, work=work: work(), 1)) == {"": expected}


def test_attention_backward_is_two_and_a_half_times_forward() -> None:
    """It computes the scores again beside four products."""
    q, k, v = (torch.ones(2, 3, 5, 8, requires_grad=True) for _ in range(3))

    def work(section: Section) -> None:
        with section("forward"):
            out = F.scaled_dot_product_attention(q, k, v).sum()
        with section("backward"):
            out.backward()

    counted = count_sections(Part("attention", work, 1))
    assert counted["backward"] == 2.5 * counted["forward"] > 0


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

        counted = count_sections(Part("convolution", work, 1))
        assert counted["backward"] == 2 * counted["forward"] == 4 * 3 * 36 * layer.weight.numel()


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

    assert count_sections(Part("shared", work, 1)) == {"": 5 * 32, "outer": 2 * 32, "again": 3 * 32}


# Time and memory


class Fake:
    """A clock that work moves on, and a memory that work fills."""

    how = "made up"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.used, self.most = 0.0, 100, 100
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def take(self, seconds: float, memory: int) -> None:
        self.now += seconds
        self.most = max(self.most, self.used + memory)

    def start(self) -> int:
        self.most = self.used
        return self.used

    def stop(self) -> int:
        return self.most


def test_medians_of_the_timed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, bench = Fake(monkeypatch), Bench(CPU, repeats=3, warmup=2)
    bench.memory = fake
    seconds = iter([50.0, 60.0, 70.0, 4.0, 1.0, 2.0])  # one run is counted, two warm up

    def work(section: Section) -> None:
        with section("first"):
            fake.take(next(seconds), 7)
        with section("second"):
            fake.take(1.0, 40)
        fake.take(0.5, 0)

    whole, first, second = bench.measure(Part("part", work, 4))
    assert next(seconds, None) is None
    assert (whole.part, first.part, second.part) == ("part", "part: first", "part: second")
    assert (whole.seconds, whole.fastest, whole.slowest) == (3.5, 2.5, 5.5)
    assert (first.seconds, second.seconds) == (2.0, 1.0)
    assert (whole.memory_peak, first.memory_peak, second.memory_peak) == (140, 107, 140)
    assert (whole.memory_added, first.memory_added) == (40, 7)
    assert whole.flops == 0 and whole.samples == 4


def test_a_section_entered_twice_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, bench = Fake(monkeypatch), Bench(CPU, repeats=1, warmup=0)
    bench.memory = fake

    def work(section: Section) -> None:
        for memory in (30, 10):
            with section("twice"):
                fake.take(2.0, memory)

    _, twice = bench.measure(Part("part", work, 1, counted=False))
    assert twice.seconds == 4.0 and twice.memory_peak == 130 and twice.flops is None


def test_memory_that_is_not_known_is_told_as_such() -> None:
    bench = Bench(CPU, repeats=1, warmup=0)
    bench.memory = NoPeak()
    (one,) = bench.measure(Part("part", lambda section: None, 1))
    assert one.memory_peak is None and one.memory_added is None


@pytest.mark.skipif(isinstance(peak_memory(CPU), NoPeak), reason="no /proc on this system")
@pytest.mark.parametrize("kind", [ResidentPeak, SampledPeak])
def test_the_peak_of_resident_memory(kind: type[PeakMemory]) -> None:
    if kind is ResidentPeak and not isinstance(peak_memory(CPU), ResidentPeak):
        pytest.skip("this kernel does not let the peak be forgotten")
    memory, size = kind(), 80 * 2**20
    for expected in (size, 0):  # what came before is forgotten
        held = memory.start()
        with mmap.mmap(-1, max(expected, mmap.PAGESIZE)) as block:  # not from memory that a test before this one freed
            for page in range(0, expected, mmap.PAGESIZE):
                block[page] = 1
            time.sleep(0.05)
        assert memory.stop() - held == pytest.approx(expected, abs=8 * 2**20)


def test_the_way_to_watch_memory_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from utils.benchmark import memory

    monkeypatch.setattr(memory, "RESET", tmp_path / "no" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert isinstance(peak_memory(CPU), NoPeak)
    (tmp_path / "status").write_text("Name:\tx\nVmRSS:\t    12 kB\nVmHWM:\t    34 kB\n")
    assert isinstance(peak_memory(CPU), SampledPeak)
    assert (status_bytes("VmRSS"), status_bytes("VmHWM")) == (12 * 1024, 34 * 1024)
    assert isinstance(peak_memory(torch.device("cuda")), CudaPeak)


def test_the_machines_peak_is_that_of_a_large_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PEAK_SIDES, "cpu", 16)
    fake, bench = Fake(monkeypatch), Bench(CPU, repeats=1, warmup=0)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: fake.take(2.0, 0))
    assert bench.peak(torch.float32) == 2 * 16**3 / 2.0


# Tables


def a_row(part: str, seconds: float, memory: int | None = 2**20, flops: int | None = 10**9) -> Row:
    """Of two samples, run once."""
    once = Once(seconds, None if memory is None else 0, memory)
    return row(Part(part, lambda section: None, samples=2), "", [once], flops)


def results(*rows: Row, **settings: object) -> dict:
    """What a run writes."""
    return {"benchmark": 1, "settings": settings, "parts": [record(one, 1e9) for one in rows]}


def test_a_record_is_of_one_sample() -> None:
    one = record(a_row("eval", 4.0), peak=1e9)
    assert (one["seconds_per_sample"], one["samples_per_second"], one["flops_per_sample"]) == (2.0, 0.5, 5e8)
    assert one["share_of_peak"] == 0.25 and one["memory_peak_bytes"] == 2**20
    unknown = record(a_row("data", 4.0, None, None), peak=1e9)
    assert unknown["flops_per_sample"] is unknown["share_of_peak"] is unknown["memory_peak_bytes"] is None


def test_the_table_sets_sections_in() -> None:
    rows = [a_row("eval", 4.0), a_row("eval: masks", 2.0), a_row("data: loader", 1.0, None, None)]
    lines = table(results(*rows)["parts"]).splitlines()
    assert lines[1].split() == ["eval", "2000.0", "0.50", "0.50", "25.0%", "1", "1"]
    assert lines[2].startswith("  masks ") and lines[3].startswith("data: loader ")
    assert lines[3].split()[2:] == ["500.0", "2.00"]


def test_two_runs_are_compared_by_ratio() -> None:
    old = results(a_row("eval", 6.0, 4 * 2**20), a_row("train", 1.0), config="mini", batch=2)
    new = results(a_row("eval", 2.0), a_row("generate", 1.0), config="mini", batch=4)
    lines = comparison(old, new).splitlines()
    assert lines[1].split() == ["eval", "3000.0", "1000.0", "3.00", "4.00"]
    assert lines[2:] == [
        "only in the old run: train",
        "only in the new run: generate",
        "the runs differ in batch: 2 then, 4 now",
    ]


@pytest.mark.parametrize("text", ["", "[1]", '{"benchmark": 0, "parts": []}', '{"benchmark": 1}'])
def test_what_is_no_result_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(UserError, match=f"--compare {file}: "):
        read_results(file)


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = results(a_row("eval", 6.0, None))
    write_json(tmp_path / "new.json", written)
    assert read_results(tmp_path / "new.json") == written


def test_the_ratio_of_throughput() -> None:
    rows = [a_row("generate", 1.0), a_row("generate, one at a time", 4.0), a_row("generate: vision", 1.0)]
    assert throughput_ratios(results(*rows)["parts"], 16) == {"throughput of generate, batch 16 to one at a time": 4.0}
    assert throughput_ratios(results(rows[0])["parts"], 16) == {}


# Options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "huge"], "--config is 'huge'; known are release, native, mini, golden"),
        (["--precision", "fp16"], "--precision is 'fp16'"),
        (["--engine", "jax"], "--engine is 'jax'"),
        (["--parts", "data", "cook"], "--parts cook: known are data, forward, eval, generate, train"),
        (["--batch", "0"], "--batch is 0"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--gpus", "1", "0"], "--gpus is 1 0"),
        (["--mfu", "1.2"], "--mfu is 1.2"),
        (["--peak-tflops", "0"], "--peak-tflops is 0.0"),
        (["--compare", "no/such.json"], "--compare no/such.json: no such file"),
        (["--plan", "--compare", "no/such.json"], "--compare is for measurements"),
    ],
)
def test_what_cannot_be_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_benchmark(argv)
