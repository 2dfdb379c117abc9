"""utils.training.engine: DeepSpeed's configuration, what is decayed, the schedule, and weights gathered back."""

from __future__ import annotations

import itertools
import math
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from model.pixdlm import PixDLMForCausalLM
from tests.training import Server
from utils.cli.train_options import OFFLOADS, TrainArgs, check_train
from utils.runtime.errors import UserError
from utils.runtime.precision import DTYPES, PRECISIONS
from utils.training import engine as module
from utils.training.engine import (
    check_buffers,
    engine_config,
    launcher_environment,
    parameter_groups,
    start_engine,
    weights_are_finite,
)

# Configuration


def combinations() -> list[TrainArgs]:
    """Every stage, offload and precision that is allowed together."""
    found = []
    for stage, offload, precision in itertools.product(range(4), OFFLOADS, PRECISIONS):
        args = TrainArgs(batch_size=2, warmup_steps=0, zero_stage=stage, offload=offload, precision=precision)
        try:
            check_train(args)
        except UserError:
            continue
        found.append(args)
    return found


def test_the_options_are_what_deepspeed_is_told() -> None:
    config = engine_config(TrainArgs(batch_size=3, grad_accumulation=5, clip_norm=0.5, zero_stage=1))
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 5
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == 1


@pytest.mark.parametrize("args", combinations(), ids=lambda a: f"{a.zero_stage}-{a.offload}-{a.precision}")
def test_stage_offload_and_precision(args: TrainArgs) -> None:
    config = engine_config(args)
    zero = config["zero_optimization"]
    assert zero["stage"] == args.zero_stage
    assert ("offload_optimizer" in zero) == (args.offload != "none")
    assert ("offload_param" in zero) == (args.offload == "all")
    for part in ("offload_optimizer", "offload_param"):
        assert part not in zero or zero[part]["device"] == "cpu"
    assert config["bf16"]["enabled"] == (args.precision == "bf16")
    assert config["fp16"]["enabled"] == (args.precision == "fp16")
    assert ("torch_autocast" in config) == (args.precision == "mixed")
    sums = config.get("data_types", {}).get("grad_accum_dtype")  # of the micro-steps' gradients
    assert sums == ("fp32" if args.precision == "bf16" and args.zero_stage >= 2 else None)


def test_stages_are_all_there() -> None:
    assert {args.zero_stage for args in combinations()} == {0, 1, 2, 3}
    # 10 micro-steps are not added up in bf16 at stages 0 and 1
    assert len(combinations()) == 4 * (1 + 2 + 2 + 3) - (1 + 2)
    assert not any(args.precision == "bf16" and args.zero_stage < 2 for args in combinations())


# Parameters


def test_matrices_are_decayed_embeddings_norms_and_biases_are_not(tiny_model: PixDLMForCausalLM) -> None:
    for parameter in tiny_model.semantic_path.parameters():
        parameter.requires_grad_(False)
    decayed, plain = parameter_groups(tiny_model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in tiny_model.named_parameters()}
    with_decay, without = ({names[id(one)] for one in group["params"]} for group in (decayed, plain))
    assert "language_model.lm_head.weight" in with_decay and "projector.weight" in with_decay
    assert "language_model.model.embed_tokens.weight" in without and "projector.bias" in without
    assert "language_model.model.norm.weight" in without
    # by type, not by a word in the name: convolutions that are called embed, and tables that are not
    assert "mask_decoder.pixel_neck.embed.0.weight" in with_decay
    assert "seg_projection.token_weights" in without and "pixel_path.encoder.trunk.pos_embed" in without
    trained = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    assert with_decay | without == trained and not with_decay & without
    assert not any(name.startswith("semantic_path") for name in trained)


def test_an_empty_group_is_left_out() -> None:
    (group,) = parameter_groups(nn.Linear(2, 2, bias=False), 0.1)
    assert len(group["params"]) == 1


# The engine, with a stand-in for DeepSpeed


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `deepspeed.initialize` was called with."""
    keep: dict[str, Any] = {}

    def initialize(**named: Any) -> tuple:
        keep.update(named)
        return SimpleNamespace(module=named["model"]), named["optimizer"], None, named["lr_scheduler"]

    stand_in = ModuleType("deepspeed")
    stand_in.initialize, stand_in.__version__ = initialize, module.LEAST_DEEPSPEED
    stand_in.utils = SimpleNamespace(logger=SimpleNamespace(setLevel=lambda level: None))
    stand_in.ops = SimpleNamespace(__compatible_ops__={"deepspeed_shm_comm": True})
    monkeypatch.setitem(sys.modules, "deepspeed", stand_in)
    return keep


def rates(args: TrainArgs, total: int) -> list[float]:
    """The learning rate of each step and the one after the last, for a peak of 1."""
    _, schedule = start_engine(nn.Linear(2, 2), args, total)
    found = []
    for _ in range(total + 1):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_linearly_and_falls_linearly_to_zero(told: dict[str, Any]) -> None:
    args = TrainArgs(lr=1.0, warmup_steps=4)
    assert rates(args, 8) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_without_warm_up_the_rate_begins_at_its_peak(told: dict[str, Any]) -> None:
    assert rates(TrainArgs(lr=1.0, warmup_steps=0), 4) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_run_shorter_than_its_warm_up_never_has_a_negative_rate(told: dict[str, Any]) -> None:
    assert rates(TrainArgs(lr=1.0, warmup_steps=10), 3) == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("precision", "known"), [("fp16", False), ("bf16", False), ("fp32", True), ("mixed", True)])
def test_a_precision_that_the_device_lacks_is_told(
    monkeypatch: pytest.MonkeyPatch, precision: str, known: bool
) -> None:
    accelerator = ModuleType("deepspeed.accelerator")
    accelerator.get_accelerator = lambda: SimpleNamespace(
        is_fp16_supported=lambda: False, is_bf16_supported=lambda: False
    )
    monkeypatch.setitem(sys.modules, "deepspeed.accelerator", accelerator)
    if known:
        module.check_precision(DTYPES[precision])
    else:
        with pytest.raises(UserError, match=f"--precision {precision}: DeepSpeed cannot run in it"):
            module.check_precision(DTYPES[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_optimizer_and_configuration_are_as_the_options_say(told: dict[str, Any], precision: str) -> None:
    args = TrainArgs(batch_size=2, warmup_steps=0, precision=precision, lr=0.1, beta1=0.8, beta2=0.7, weight_decay=0.3)
    start_engine(nn.Linear(2, 2), args, 10)
    assert isinstance(told["optimizer"], torch.optim.AdamW)
    assert [group["weight_decay"] for group in told["optimizer"].param_groups] == [0.3, 0.0]
    assert told["optimizer"].defaults["betas"] == (0.8, 0.7)
    assert told["config"] == engine_config(args)


def test_a_script_that_was_started_alone_gets_a_launchers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RANK": "3", "MASTER_PORT": "1"})
    launcher_environment(torch.device("cuda", 0), 29)
    assert "DS_ACCELERATOR" not in os.environ
    launcher_environment(torch.device("cpu"), 29)
    assert os.environ == {
        "DS_ACCELERATOR": "cpu",
        "RANK": "3",  # a launcher's word stands
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }


# DeepSpeed itself


@pytest.mark.parametrize("args", combinations(), ids=lambda a: f"{a.zero_stage}-{a.offload}-{a.precision}")
def test_deepspeed_knows_every_setting(monkeypatch: pytest.MonkeyPatch, args: TrainArgs) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    read = DeepSpeedConfig(engine_config(args))
    assert read.zero_config.stage == args.zero_stage
    assert (read.zero_config.offload_optimizer is not None) == (args.offload != "none")
    assert (read.zero_config.offload_param is not None) == (args.offload == "all")


STEPS = """
import sys
import torch
from torch import nn
from utils.cli.train_options import TrainArgs
from utils.training.engine import gathered_state, start_engine

found = {}
for stage in range(4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model.register_buffer("places", torch.arange(3.0))
    model[0].bias.requires_grad_(False)
    args = TrainArgs(batch_size=2, grad_accumulation=1, precision="fp32", zero_stage=stage, warmup_steps=0, lr=0.1)
    args.clip_norm = 1e9
    engine, schedule = start_engine(model, args, total_steps=4)
    for _ in range(2):
        loss = engine(torch.arange(8.0).view(2, 4) / 8).square().sum()
        engine.backward(loss)
        engine.step()
    state = gathered_state(engine)
    assert (state is None) == (engine.global_rank != 0)
    found[stage] = (state, schedule.get_last_lr()[0])
    if stage < 3:  # what was gathered is a copy, which training goes on without
        kept = state and state["0.weight"].clone()
        with torch.no_grad():
            engine.module[0].weight.zero_()
        assert state is None or torch.equal(state["0.weight"], kept)
if found[0][0] is not None:
    torch.save(found, sys.argv[1])
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def trained(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[dict[str, torch.Tensor], float]]:
    """Gathered weights and the rate after two steps of two processes, by ZeRO stage."""
    file = tmp_path_factory.mktemp("engine") / "found.pt"
    server.run_code(STEPS, file, world=2)
    return torch.load(file)


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_trains_as_pytorch_alone_and_its_weights_come_back_whole(trained: dict, stage: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    bias = model[0].bias.detach().clone()
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.0), lr=0.1, betas=(0.9, 0.95))
    for rate in (0.1, 0.075):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        model(torch.arange(8.0).view(2, 4) / 8).square().sum().backward()
        optimizer.step()
    state, rate = trained[stage]
    assert rate == pytest.approx(0.05)
    assert list(state) == ["places", *model.state_dict()]
    assert torch.equal(state["places"], torch.arange(3.0)) and torch.equal(state["0.bias"], bias)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-5)


# What DeepSpeed leaves


def test_a_deepspeed_that_lets_nan_into_the_weights_is_refused(told: dict[str, Any]) -> None:
    for version in ("0.19.7", "0.19.0", "0.9.5"):
        sys.modules["deepspeed"].__version__ = version
        with pytest.raises(UserError, match=f"DeepSpeed is {version}; earlier ones than 0.19.8"):
            module.import_deepspeed()
    sys.modules["deepspeed"].__version__ = "0.20.0+cu130"
    module.import_deepspeed()


def test_the_padding_of_a_shard_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed leaves the end of the last shard as it finds it in memory: here of 5 numbers over two processes."""
    layer = nn.Linear(5, 1, bias=False)
    layer.weight.ds_numel, layer.weight.ds_tensor = 5, torch.tensor([4.0, 5.0, math.nan])
    monkeypatch.setattr(module, "rank", lambda: 1)
    assert weights_are_finite(layer)
    layer.weight.ds_tensor[1] = math.nan
    assert not weights_are_finite(layer)
    monkeypatch.setattr(module, "rank", lambda: 2)  # holds nothing of so small a one
    layer.weight.ds_tensor[:] = math.nan
    assert weights_are_finite(layer)


def test_states_of_earlier_versions_keep_their_groups(tiny_model: PixDLMForCausalLM) -> None:
    names = {id(parameter): name for name, parameter in tiny_model.named_parameters()}
    now, then = ([[names[id(one)] for one in group["params"]] for group in parameter_groups(tiny_model, 0.1, by_name)]
                 for by_name in (False, True))  # fmt: skip
    assert sorted(sum(now, [])) == sorted(sum(then, [])) and now != then
    assert all("embed" not in name for name in then[0]) and "seg_projection.token_weights" in then[0]


def test_buffers_that_were_rounded_are_told() -> None:
    norm = nn.BatchNorm1d(2)
    before = {name: buffer.dtype for name, buffer in norm.named_buffers()}
    check_buffers(norm, before)
    norm.running_var = norm.running_var.bfloat16()
    with pytest.raises(UserError, match="made torch.bfloat16 of the buffer running_var, which was torch.float32"):
        check_buffers(norm, before)


def test_an_engine_that_rounds_buffers_is_not_begun_with(told: dict[str, Any]) -> None:
    plain = sys.modules["deepspeed"].initialize

    def rounding(**named: Any) -> tuple:
        named["model"].running_var = named["model"].running_var.bfloat16()
        return plain(**named)

    start_engine(nn.BatchNorm1d(2), TrainArgs(warmup_steps=0), 4)
    sys.modules["deepspeed"].initialize = rounding
    with pytest.raises(UserError, match="made torch.bfloat16 of the buffer running_var"):
        start_engine(nn.BatchNorm1d(2), TrainArgs(warmup_steps=0), 4)


def test_the_engine_of_an_earlier_versions_run_gets_its_groups(
    told: dict[str, Any], tiny_model: PixDLMForCausalLM
) -> None:
    for by_name in (False, True):
        start_engine(tiny_model, TrainArgs(warmup_steps=0), 4, by_name)
        given = [group["params"] for group in told["optimizer"].param_groups]
        expected = [group["params"] for group in parameter_groups(tiny_model, 0.0, by_name)]
        assert [list(map(id, group)) for group in given] == [list(map(id, group)) for group in expected]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_trained_weights_are_looked_at_one_by_one(value: float) -> None:
    layer = nn.Linear(2, 2)
    assert weights_are_finite(layer)
    layer.bias.data[1] = value
    assert not weights_are_finite(layer)
    layer.bias.requires_grad_(False)  # what does not train was read so
    assert weights_are_finite(layer)
