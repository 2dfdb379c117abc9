"""With ZeRO-3 no process but the first ever holds the whole model, and all have the first one's weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.training import CHECKOUT, TINY, environment
from utils.training import zero3 as sharding

# Shards a language model of 79 M parameters, 315 MB; says how much each process grew at most.
SCRIPT = """
import json, sys, torch
from pathlib import Path
from utils.cli.train_options import parse_train
from utils.runtime.distributed import process_group, rank
from utils.runtime.precision import DTYPES
from utils.training.engine import engine_config, gathered_state, start_engine
from utils.runtime.logs import peak_process_gib
from utils.training.zero3 import build_sharded
from utils.training.setup import build_training_model
import deepspeed
from utils.runtime.distributed import broadcast_from_rank0
from utils.runtime.errors import UserError

def mistaken():
    raise UserError("no such folder")

args = parse_train(sys.argv[2:])
with process_group(torch.device("cpu")):
    torch.manual_seed(rank())  # so that each would draw other weights
    before = peak_process_gib()
    drawn = {}

    def started():
        built = build_training_model(args)
        drawn.update({name: float(p.detach().double().sum()) for name, p in built[0].named_parameters()})
        return built

    model, tokenizer, trained = build_sharded(started, DTYPES[args.precision], engine_config(args))
    grown = peak_process_gib() - before
    engine, _ = start_engine(model, args, total_steps=10)
    state = gathered_state(engine)
    sums = {} if state is None else {name: float(tensor.double().sum()) for name, tensor in state.items()}
    codes = [float(buffer.double().sum()) for buffer in model.buffers()]
    try:
        broadcast_from_rank0(mistaken if rank() == 0 else None)
    except UserError as error:
        mistake = str(error)
    model_of = {"mistake": mistake, "drawn": drawn, "vocabulary": len(tokenizer), "codes": codes}
    said = {**model_of, "grown": grown, "sums": sums, "trained": trained}
    Path(sys.argv[1], f"{rank()}.json").write_text(json.dumps(said))
"""
TEXT = {**TINY["text_config"], "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "grow.py").write_text(SCRIPT)
    arguments = ["--config", "mini", "--zero-stage", "3", "--warmup-steps", "0"]
    arguments += ["--batch-size", "2", "--override"]
    arguments += [f"{field}={json.dumps(value)}" for field, value in {**TINY, "text_config": TEXT}.items()]
    command = [sys.executable, "-m", "utils.cli.launch", str(folder / "grow.py"), str(folder), *arguments]
    # glibc keeps what was let go between the shares, which on a GPU lie elsewhere; so large pieces go back at once
    kept = environment(NPROC="2", PYTHONPATH=str(CHECKOUT), MALLOC_MMAP_THRESHOLD_="65536")
    ended = subprocess.run(command, cwd=CHECKOUT, env=kept, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_what_is_no_parameter_goes_to_the_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed leaves the buffers of a model whose parameters it has parted where they are."""
    model = nn.BatchNorm1d(2, affine=False)
    model.use_flash_attention = lambda: False
    monkeypatch.setattr(sharding, "build_sharded", lambda *_: (model, "tokenizer", {}))
    monkeypatch.setattr(sharding, "start_inference", lambda *_: "engine")
    monkeypatch.setattr(sharding, "launcher_environment", lambda *_: None)
    loaded = sharding.load_sharded(lambda: None, torch.device("meta"), torch.float32, offload=False)
    assert loaded == (model, "tokenizer", "engine") and not model.training
    assert model.running_mean.is_meta


@pytest.mark.slow
def test_a_process_grows_by_its_share(said: list[dict]) -> None:
    whole = sum(said[0]["trained"].values()) * 4 / 2**30
    assert whole > 0.18
    assert said[0]["grown"] > 0.9 * whole  # the first one builds it
    assert said[1]["grown"] < 0.75 * whole  # the other: half of it, and one parameter at a time


def test_all_have_the_first_ones_model(said: list[dict]) -> None:
    assert said[0]["codes"] == said[1]["codes"]
    assert said[0]["trained"] == said[1]["trained"] and said[0]["vocabulary"] == said[1]["vocabulary"]
    assert said[0]["drawn"] and not said[1]["drawn"] and not said[1]["sums"]  # one process alone builds and writes
    assert {name: said[0]["sums"][name] for name in said[0]["drawn"]} == said[0]["drawn"]


def test_a_mistake_of_the_first_process_is_told_by_all(said: list[dict]) -> None:
    assert [one["mistake"] for one in said] == ["no such folder"] * 2
