"""DeepSpeed's checkpoints: the whole model from its shards, and what is unfinished or wants to run code."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.checkpoints.layouts import renamed_shapes, renamed_tensors
from model.checkpoints.load import load_pretrained
from model.pixdlm import PixDLMForCausalLM, load_model
from tests.permissions import refused
from tests.training import TINY, Server
from utils.runtime.errors import UserError

# Trains a tiny model with adapters for a step; writes DeepSpeed's checkpoint and what it should hold.
SAVE = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from model.lora import lora_settings
from model.parts import set_trainable
from model.pixdlm import PixDLMForCausalLM
from model.checkpoints.layouts import load_config
from utils.cli.train_options import parse_train
from utils.runtime.distributed import pick_device, process_group, rank
from utils.training.engine import gathered_state, launcher_environment, start_engine
from utils.runtime.ports import free_port

stage, source, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
launcher_environment(torch.device("cpu"), free_port())
args = parse_train(["--config", "mini", "--zero-stage", str(stage), "--warmup-steps", "0", "--batch-size", "2"])
with process_group(pick_device()):
    torch.manual_seed(0)
    model = PixDLMForCausalLM(load_config(source))
    set_trainable(model, {"projector", "seg_projection", "mask_decoder"})
    engine, _ = start_engine(model, args, 2)
    if stage < 3:  # whose parameters are empty outside a forward pass
        loss = sum(p.float().square().sum() for p in engine.module.parameters() if p.requires_grad)
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(str(out), tag="step1")
    state = gathered_state(engine)
    if rank() == 0:
        torch.save(state, out / "expected.pt")
"""


def save(server: Server, tmp: Path, stage: int, processes: int, source: Path) -> Path:
    out = tmp / "run" / f"zero{stage}"
    out.mkdir(parents=True)
    for name in ("config.json", "tokenizer.model"):
        shutil.copyfile(source / name, out.parent / name)
    server.run_code(SAVE, str(stage), source, out, world=processes)
    return out


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """A folder with the configuration and tokenizer of a tiny model with adapters."""
    from model.config import PixDLMConfig
    from model.language.tokens import PixTokenizer
    from model.lora import lora_settings

    folder = tmp_path_factory.mktemp("source")
    text = {**TINY["text_config"], "vocab_size": len(PixTokenizer(tokenizer_file))}
    lora = lora_settings(2, 16.0, 0.0, ["q_proj", "v_proj"])
    PixDLMConfig(**{**TINY, "text_config": text, "system_prompt": "", "lora": lora}).save_pretrained(folder)
    shutil.copyfile(tokenizer_file, folder / "tokenizer.model")
    return folder


PROCESSES = {0: 1, 1: 1, 2: 2, 3: 2}  # by ZeRO stage
MakeCheckpoint = Callable[[int], Path]


@pytest.fixture(scope="module")
def checkpoint_of(server: Server, tmp_path_factory: pytest.TempPathFactory, source: Path) -> MakeCheckpoint:
    """A checkpoint by its ZeRO stage, each trained once."""
    return functools.cache(lambda stage: save(server, tmp_path_factory.mktemp("zero"), stage, PROCESSES[stage], source))


@pytest.fixture
def sharded(checkpoint_of: MakeCheckpoint, tmp_path: Path) -> Path:
    """A copy of a sharded one, to be damaged."""
    whole = checkpoint_of(2)
    shutil.copytree(whole.parent, tmp_path / "run")
    return tmp_path / "run" / whole.name


@pytest.mark.slow
@pytest.mark.parametrize("stage", PROCESSES)
def test_the_model_is_put_together(checkpoint_of: MakeCheckpoint, stage: int) -> None:
    checkpoint = checkpoint_of(stage)
    expected = torch.load(checkpoint / "expected.pt", weights_only=True)
    for folder in (checkpoint, checkpoint / "step1"):
        model, _ = load_model(folder)
        state = model.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
    assert model.config.lora["r"] == 2
    shapes = dict(renamed_shapes(checkpoint, model.config))
    assert shapes == {name: tuple(tensor.shape) for name, tensor in renamed_tensors(checkpoint, model.config)}


def test_a_rank_that_is_missing_is_told(sharded: Path) -> None:
    files = sorted((sharded / "step1").glob("*_optim_states.pt"))
    assert len(files) == 2
    files[1].unlink()
    with pytest.raises(UserError, match="step1: unfinished or damaged"):
        load_pretrained(PixDLMForCausalLM, sharded)
    files[0].unlink()  # the half-precision weights in the module are not taken for the whole
    with pytest.raises(UserError, match=r"no \*_optim_states\.pt in it; the checkpoint is unfinished"):
        load_pretrained(PixDLMForCausalLM, sharded)


def test_a_file_that_is_cut_is_named(sharded: Path) -> None:
    file = sorted((sharded / "step1").glob("*_optim_states.pt"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file.name}: damaged or cut off"):
        load_pretrained(PixDLMForCausalLM, sharded)


def test_one_without_its_models_files(sharded: Path) -> None:
    for file in (sharded / "step1").glob("*_model_states.pt"):
        file.unlink()
    with pytest.raises(UserError, match="no .*_model_states.pt in it; the checkpoint is unfinished"):
        load_pretrained(PixDLMForCausalLM, sharded)
    (sharded / "latest").write_text("step9")
    with pytest.raises(UserError, match=r"latest: names 'step9', which is not in"):
        load_pretrained(PixDLMForCausalLM, sharded)


class Runs:
    def __reduce__(self) -> tuple:
        return eval, ("print('it ran')",)


def test_a_rank_that_wants_to_run_code_is_refused(sharded: Path, capsys: pytest.CaptureFixture) -> None:
    file = sorted((sharded / "step1").glob("*_optim_states.pt"))[0]
    torch.save({"optimizer_state_dict": Runs()}, file)
    with pytest.raises(UserError, match=rf"{file.name}: not read, .*\beval\b"):
        load_pretrained(PixDLMForCausalLM, sharded)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ck[1]", "what?", "all*", "lr[1e-3]/[ab]", "[!a]"])
def test_a_name_is_no_pattern(sharded: Path, tmp_path: Path, name: str) -> None:
    """DeepSpeed looks for its files by one."""
    for stem in ("lr1", "a", "all", "whatx"):  # what the patterns would find
        (tmp_path / "named" / stem / "step1").mkdir(parents=True)
    folder = tmp_path / "named" / name
    shutil.copytree(sharded, folder)
    shutil.copy(sharded.parent / "config.json", folder)
    (folder / "step1").rename(folder / "step[1]*")
    (folder / "latest").write_text("step[1]*")
    expected = torch.load(sharded / "expected.pt", weights_only=True)
    for given in (folder, folder / "step[1]*"):
        state = load_pretrained(PixDLMForCausalLM, given).state_dict()
        assert all(torch.equal(state[one], expected[one]) for one in expected)
    file = sorted((folder / "step[1]*").glob("*_optim_states.pt"))[1]
    with refused(file), pytest.raises(UserError, match=re.escape(f"{file}: permission denied")):
        load_pretrained(PixDLMForCausalLM, folder)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=re.escape(f"{file}: damaged or cut off")):
        load_pretrained(PixDLMForCausalLM, folder)


def test_a_checkpoint_that_may_not_be_read_is_told_as_that(sharded: Path) -> None:
    for path in (sharded / "latest", sharded / "step1", sorted((sharded / "step1").glob("*_model_states.pt"))[0]):
        with refused(path), pytest.raises(UserError, match="permission denied") as told:
            load_pretrained(PixDLMForCausalLM, sharded)
        assert str(path) in str(told.value) and "damaged" not in str(told.value)
