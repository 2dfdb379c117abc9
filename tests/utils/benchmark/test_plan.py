"""utils.benchmark.plan: what DeepSpeed keeps and sends, held against two processes; and the plan made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.pixdlm import PixDLMForCausalLM
from tests.training import Server
from utils.benchmark import plan as module
from utils.benchmark.on_meta import StepCount
from utils.benchmark.plan import (
    MemoryBreakdown,
    Sizes,
    bytes_sent_per_step,
    compute_minutes,
    memory_per_gpu,
    sizes_of,
)
from utils.cli.benchmark_options import parse_benchmark

# What DeepSpeed holds and sends

WIDE, LAYERS, MICRO_STEPS = 400, 3, 2  # layers so large that stage 3 shards them, in two processes
PROCESS = """
import gc, json, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from utils.cli.train_options import TrainArgs
from utils.benchmark.on_meta import LiveBytes
from utils.training.engine import start_engine

file, runs, (wide, layers, micro_steps) = sys.argv[1], sys.argv[2].split(), map(int, sys.argv[3:])


class Messages(TorchDispatchMode):
    # what passes between processes, as large as it is where it is whole
    def __init__(self):
        super().__init__()
        self.bytes = {"allreduce": 0, "allgather": 0, "reduce_scatter": 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for name in self.bytes:
            if func.namespace == "c10d" and name in func.__name__:
                self.bytes[name] += max(one.nbytes for one in tree_leaves(args) if isinstance(one, torch.Tensor))
        return func(*args, **(kwargs or {}))


def bytes_in_use():
    storages = {}
    for tensor in [one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter)]:
        for one in [tensor] + [tensor.grad] * (tensor.is_leaf and tensor.grad is not None):
            if not one.is_meta:
                storages[one.untyped_storage()._cdata] = one.untyped_storage().nbytes()
    return sum(storages.values())


found = {}
for run in runs:
    precision, stage = run.split("-")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    picture = torch.ones(2, wide, dtype=dtype)
    gc.collect()
    before = bytes_in_use()
    model = nn.Sequential(*(nn.Linear(wide, wide) for _ in range(layers))).to(dtype)
    model[0].weight.requires_grad_(False)
    args = TrainArgs(batch_size=1, grad_accumulation=micro_steps, precision=precision, warmup_steps=0)
    args.zero_stage = int(stage)
    engine, schedule = start_engine(model, args, total_steps=9)
    for step in range(2):  # the first makes Adam's moments and learns in which order parameters are gathered
        messages = Messages()
        for micro in range(micro_steps):
            with messages, LiveBytes([]) as live:
                engine.backward(engine(picture).float().square().mean())
            gc.collect()
            if micro == 0:
                between, peak = bytes_in_use() - before, live.peak
            with messages:
                engine.step()
    found[run] = {"held": between, "peak": peak, "messages": messages.bytes}
    engine.destroy()
    del model, engine, schedule
if dist.get_rank() == 0:
    json.dump(found, open(file, "w"))
dist.destroy_process_group()
"""


RUNS = ("bf16-0", "bf16-1", "bf16-2", "bf16-3", "fp32-0", "fp32-2")


@pytest.fixture(scope="module")
def two_processes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each of two processes of DeepSpeed held and sent, by precision and ZeRO stage."""
    file = tmp_path_factory.mktemp("plan") / "found.json"
    numbers = [str(one) for one in (WIDE, LAYERS, MICRO_STEPS)]
    server.run_code(PROCESS, file, " ".join(RUNS), *numbers, world=2)
    return json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_what_two_processes_hold_and_send(two_processes: dict[str, Any], run: str) -> None:
    precision, stage = run[:4], int(run[-1])
    total, frozen = LAYERS * WIDE * (WIDE + 1), WIDE * WIDE
    sizes = Sizes(total, total - frozen, LAYERS * WIDE, 2 if precision == "bf16" else 4)
    measured, planned = two_processes[run], memory_per_gpu(stage, 2, sizes, overlap=False)
    bucket = module.REDUCE_BUCKET * sizes.width
    kept = bucket if stage in (1, 3) else 0  # stage 2 lets it go between micro-steps
    states = planned.weights + planned.gradients + planned.optimiser
    assert measured["held"] - kept == pytest.approx(states, rel=0.02)
    if stage:
        assert bucket <= measured["peak"] <= bucket + 4 * sizes.total * sizes.width
    if stage < 3:
        assert planned.buffers == (bucket if stage else 0)
    messages = measured["messages"]
    ring = (2 * messages["allreduce"] + messages["allgather"] + messages["reduce_scatter"]) // 2
    assert bytes_sent_per_step(stage, 2, sizes, MICRO_STEPS) == pytest.approx(ring, rel=0.02)


def test_deepspeeds_defaults_are_as_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = DeepSpeedZeroConfig()
    assert zero.reduce_bucket_size == module.REDUCE_BUCKET
    assert zero.max_live_parameters == module.MAX_LIVE
    assert zero.param_persistence_threshold == module.PERSISTENT


SIZES = Sizes(total=8_000_000_000, trained=1_000_000_000, small=0, width=2)


def test_stages_shard_what_they_say() -> None:
    assert memory_per_gpu(0, 8, SIZES) == MemoryBreakdown(16 * 10**9, 2 * 10**9, 12 * 10**9, 0)
    assert memory_per_gpu(1, 8, SIZES) == MemoryBreakdown(16 * 10**9, 2 * 10**9, 12 * 10**9 // 8, 2 * 10**9)
    assert memory_per_gpu(2, 8, SIZES) == MemoryBreakdown(16 * 10**9, 4 * 10**9 // 8, 12 * 10**9 // 8, 2 * 10**9)
    assert memory_per_gpu(3, 8, SIZES) == MemoryBreakdown(2 * 10**9, 4 * 10**9 // 8, 12 * 10**9 // 8, 3 * 10**9)
    assert memory_per_gpu(0, 1, replace(SIZES, width=4)).optimiser == 8 * 10**9  # weights are their own copies


def test_a_large_model_is_gathered_twice_a_micro_step() -> None:
    assert bytes_sent_per_step(3, 2, SIZES, 10) == 10 * (2 * 16 + 2) * 10**9 // 2
    assert bytes_sent_per_step(3, 2, replace(SIZES, total=10**9), 10) == 10 * (2 + 2) * 10**9 // 2
    assert [bytes_sent_per_step(stage, 1, SIZES, 10) for stage in range(4)] == [0] * 4


# The plan


def test_parameters_are_counted(tiny_model: PixDLMForCausalLM) -> None:
    tiny_model.requires_grad_(False).projector.requires_grad_(True)
    sizes = sizes_of(tiny_model, torch.bfloat16)
    assert sizes.trained == sum(one.numel() for one in tiny_model.projector.parameters())
    assert sizes.total == sizes.small == sum(one.numel() for one in tiny_model.parameters()) and sizes.width == 2


def test_the_time_is_that_of_the_operations() -> None:
    args = parse_benchmark(["--peak-tflops", "2", "--mfu", "0.5"])
    minutes = compute_minutes(StepCount(1e12, 2e12, 0), 4, args)
    expected = {"train split": 2999 * 3 / 4 / 60, "published": 320_000 * 3 / 4 / 60, "test split": 5001 / 4 / 60}
    assert minutes == pytest.approx(expected)


def test_a_plan_of_mini(tmp_path: Path) -> None:
    args = parse_benchmark(["--plan", "--config", "mini", "--gpus", "2", "4", "--out", str(tmp_path / "plan.json")])
    text = module.plan_report(args)
    plan = json.loads((tmp_path / "plan.json").read_text())
    sample = plan["sample"]
    assert plan["settings"]["precision"] == "fp32" and plan["parameters"]["trained"] == plan["parameters"]["total"] > 0
    assert sample["backward_flops"] == pytest.approx(2 * sample["forward_flops"], rel=0.1)
    memory = next(one["memory"] for one in plan["stages"] if (one["stage"], one["gpus"]) == (1, 4))
    states = sum(memory[name] for name in ("weights", "gradients", "optimiser", "buffers"))
    assert memory["batch 8"] - memory["batch 2"] == 6 * sample["activations"] > 0
    assert states < memory["batch 1"] < states + 2 * sample["activations"]
    assert plan["minutes"]["2"]["published"] == 2 * plan["minutes"]["4"]["published"]
    assert "ZeRO 3, GPUs: 4" in text and "320,000 samples" in text
