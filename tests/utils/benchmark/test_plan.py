"""utils.benchmark.plan and utils.benchmark.on_meta: counts held against real runs, of one process and of two."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from tests.training import Server
from utils.benchmark import plan as module
from utils.benchmark.measure import Part, count_sections
from utils.benchmark.on_meta import LiveBytes, count_forward, count_step, meta_batch, meta_model
from utils.benchmark.plan import Held, Sizes, by_part, duration, held, seconds, sent, sizes_of
from utils.benchmark.setup import train_args
from utils.benchmark.training import prepare
from utils.cli.benchmark_options import parse_benchmark

# Counting on the meta device


def test_live_bytes_are_of_what_lives_at_once() -> None:
    known = torch.ones(1000)
    with LiveBytes([known]) as live:
        first = torch.ones(100)
        view = first[10:].view(9, 10)  # shares its memory
        second = known + 1
        del second, view
        third = torch.ones(50)
        assert live.now == 4 * 150
    assert live.peak == 4 * 1100
    del first, third
    assert live.now == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_on_the_meta_device_is_the_real_one(
    tiny_config: PixDLMConfig, collate: Callable[..., Batch], checkpointing: bool
) -> None:
    """Operations exactly; memory but for what attention's kernels keep beside their output."""
    train = replace(train_args("release"), gradient_checkpointing=checkpointing, lora_dropout=0.0)
    weights, counts = LossWeights(grounding=0.5), []
    for model, batch in (
        (PixDLMForCausalLM(tiny_config), collate(0, 4)),
        (meta_model(tiny_config, torch.float32), meta_batch(collate(0, 4), torch.float32)),
    ):
        prepare(model, train)
        counts.append(count_step(model, batch, weights))
    real, counted = counts
    assert (counted.forward_flops, counted.backward_flops) == (real.forward_flops, real.backward_flops)
    assert counted.peak == pytest.approx(real.peak, rel=0.03)
    assert counted.samples == 2


def test_recomputed_layers_cost_time_and_save_memory(tiny_config: PixDLMConfig, collate: Callable[..., Batch]) -> None:
    tiny_config.text_config.num_hidden_layers = 4
    batch, counts = meta_batch(collate(0), torch.float32), {}
    for checkpointing in (False, True):
        model = meta_model(tiny_config, torch.float32)
        prepare(model, replace(train_args("release"), gradient_checkpointing=checkpointing))
        counts[checkpointing] = count_step(model, batch, LossWeights())
    assert counts[True].backward_flops > counts[False].backward_flops
    assert counts[True].forward_flops == counts[False].forward_flops
    assert counts[True].peak < counts[False].peak


def test_a_forced_answer_on_the_meta_device_is_the_real_one(
    tiny_config: PixDLMConfig, collate: Callable[..., Batch], tiny_model: PixDLMForCausalLM
) -> None:
    with torch.no_grad():
        real = count_sections(Part("", lambda section: tiny_model(collate(0, 4)), 2))[""]
    assert count_forward(meta_model(tiny_config, torch.bfloat16), meta_batch(collate(0, 4), torch.bfloat16)) == real > 0


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


def held():
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
    before = held()
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
                between, peak = held() - before, live.peak
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


@pytest.mark.parametrize("run", RUNS)
def test_what_two_processes_hold_and_send(two_processes: dict[str, Any], run: str) -> None:
    precision, stage = run[:4], int(run[-1])
    total, frozen = LAYERS * WIDE * (WIDE + 1), WIDE * WIDE
    sizes = Sizes(total, total - frozen, LAYERS * WIDE, 2 if precision == "bf16" else 4)
    measured, planned = two_processes[run], held(stage, 2, sizes, overlap=False)
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
    assert sent(stage, 2, sizes, MICRO_STEPS) == pytest.approx(ring, rel=0.02)


def test_deepspeeds_defaults_are_as_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = DeepSpeedZeroConfig()
    assert zero.reduce_bucket_size == module.REDUCE_BUCKET
    assert zero.max_live_parameters == module.MAX_LIVE
    assert zero.param_persistence_threshold == module.PERSISTENT


SIZES = Sizes(total=8_000_000_000, trained=1_000_000_000, small=0, width=2)


def test_stages_shard_what_they_say() -> None:
    assert held(0, 8, SIZES) == Held(16 * 10**9, 2 * 10**9, 12 * 10**9, 0)
    assert held(1, 8, SIZES) == Held(16 * 10**9, 2 * 10**9, 12 * 10**9 // 8, 2 * 10**9)
    assert held(2, 8, SIZES) == Held(16 * 10**9, 4 * 10**9 // 8, 12 * 10**9 // 8, 2 * 10**9)
    assert held(3, 8, SIZES) == Held(2 * 10**9, 4 * 10**9 // 8, 12 * 10**9 // 8, 3 * 10**9)
    assert held(0, 1, replace(SIZES, width=4)).optimiser == 8 * 10**9  # weights are their own copies
    assert held(0, 1, SIZES).total == 30 * 10**9


def test_a_large_model_is_gathered_twice_a_micro_step() -> None:
    assert sent(3, 2, SIZES, 10) == 10 * (2 * 16 + 2) * 10**9 // 2
    assert sent(3, 2, replace(SIZES, total=10**9), 10) == 10 * (2 + 2) * 10**9 // 2
    assert [sent(stage, 1, SIZES, 10) for stage in range(4)] == [0] * 4


# The plan


def test_parameters_are_counted_by_part(tiny_model: PixDLMForCausalLM) -> None:
    trained = prepare(tiny_model, train_args("release"))
    parts, sizes = by_part(tiny_model), sizes_of(tiny_model, torch.bfloat16)
    assert {part: one["trained"] for part, one in parts.items() if one["trained"]} == trained
    assert sizes.trained == sum(trained.values())
    assert sizes.total == sum(one.numel() for one in tiny_model.parameters())
    assert sum(one["trained"] + one["frozen"] for one in parts.values()) == sizes.total
    assert sizes.small == sizes.total and sizes.width == 2


def test_the_time_is_that_of_the_operations() -> None:
    args = parse_benchmark(["--peak-tflops", "2", "--mfu", "0.5"])
    assert seconds(10, 3e12, 4, args) == 10 * 3 / 4
    assert module.PUBLISHED_EPOCH * module.PUBLISHED_EPOCHS == 320_000


@pytest.mark.parametrize(("time", "text"), [(7200, "2 h"), (90, "1.5 min"), (2.25, "2.25 s"), (0.004, "4 ms")])
def test_times_are_told_in_their_unit(time: float, text: str) -> None:
    assert duration(time) == text


def test_a_plan_of_mini(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = parse_benchmark(["--plan", "--config", "mini", "--gpus", "2", "4", "--out", str(tmp_path / "plan.json")])
    text = module.plan_text(args)
    plan = json.loads((tmp_path / "plan.json").read_text())
    sample = plan["sample"]
    assert plan["settings"]["precision"] == "fp32" and plan["parameters"]["mask_decoder"]["trained"] > 0
    assert sample["backward_flops"] == pytest.approx(2 * sample["forward_flops"], rel=0.1)
    assert sample["answer_flops"] == pytest.approx(sample["forward_flops"], rel=0.05)
    row = next(one for one in plan["memory"] if (one["stage"], one["gpus"]) == (1, 4))
    states = sum(row[name] for name in ("weights", "gradients", "optimiser", "buffers"))
    assert row["total_by_batch"]["8"] == states + sample["fixed"] + 8 * sample["activations"]
    slow, fast = plan["seconds"]
    assert slow["published_run"] == 2 * fast["published_run"] == 10 * slow["published_epoch"]
    assert "ZeRO 3, 4 GPUs" in text and "10 epochs" in text
