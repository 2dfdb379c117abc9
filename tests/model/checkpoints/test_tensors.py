"""model.checkpoints.tensors: foreign weights in, strictly, whole, and as tensors alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.backbones import load_strict
from model.checkpoints.load import load_pretrained
from model.checkpoints.tensors import StrictLoad, TensorFile, read_folder, read_tensors, stream_tensors
from model.pixdlm import PixDLMForCausalLM
from tests.model.checkpoints.states import same
from utils.runtime.errors import UserError


class Payload:
    """What a malicious pickle does: it writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


# Files


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin"])
def test_a_whole_file_is_read(tmp_path: Path, name: str) -> None:
    state = {"one": torch.randn(3, 4), "two": torch.arange(5)}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    assert same(read_tensors(tmp_path / name), state)


def test_an_old_torch_file_is_read(tmp_path: Path) -> None:
    state = {"one": torch.randn(3, 4)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(read_tensors(tmp_path / "a.pt"), state)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt", "cut.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_cut_file_is_named(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)({"one": torch.randn(64, 64)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=f"{name}: (damaged or cut off|not read, for it is damaged)"):
        read_tensors(path)


def test_a_file_must_be_there_and_hold_tensors_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: no such weight file; `python -m utils.download`"):
        read_tensors(tmp_path / "none.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"list\.pt: holds a list, not a dictionary of tensors"):
        read_tensors(tmp_path / "list.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "bad.pt", tmp_path / "was run"
    state = {"one": torch.zeros(2), "two": Payload(mark)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"bad\.pt: not read, for it is damaged or wants to run code"):
        read_tensors(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the payload works


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(Payload(tmp_path / "was run"), protocol=2))
    with pytest.raises(UserError, match=r"bad\.bin: not read"):
        read_tensors(tmp_path / "bad.bin")
    assert not (tmp_path / "was run").exists()


def save_shards(folder: Path, state: dict[str, Tensor], count: int = 3) -> None:
    """A transformers folder of safetensors with an index."""
    folder.mkdir(exist_ok=True)
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    index = {name: names[i % count] for i, name in enumerate(state)}
    for shard in names:
        save_file({k: v.clone() for k, v in state.items() if index[k] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_a_folder_is_read_shard_by_shard(tmp_path: Path) -> None:
    state = {str(i): torch.full((2,), float(i)) for i in range(7)}
    save_shards(tmp_path, state)
    shards = list(read_folder(tmp_path))
    assert [path.name for path, _ in shards] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert same({k: v for _, shard in shards for k, v in shard.items()}, state)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors: no such weight file"):
        list(read_folder(tmp_path))


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="model.safetensors.index.json: (no index of shards|not JSON)"):
        list(read_folder(tmp_path))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: no model.safetensors, pytorch_model.bin or index"):
        list(read_folder(tmp_path))
    torch.save({"one": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert [path.name for path, _ in read_folder(tmp_path)] == ["pytorch_model.bin"]


def test_a_shard_outside_its_folder_is_refused(tmp_path: Path, published: Path) -> None:
    places = {"model.norm.weight": "../../elsewhere.bin"}
    (published / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match="names a shard outside its folder"):
        load_pretrained(PixDLMForCausalLM, published)


# Strictness


def test_every_tensor_that_does_not_fit_is_listed() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {
        "0.weight": torch.zeros(3, 5),
        "1.weight": torch.zeros(4, 3),
        "1.bias": torch.zeros(()),
        "x": torch.ones(1),
    }
    with pytest.raises(UserError) as caught:
        load_strict(module, state, "some.pt (a part)")
    assert str(caught.value).splitlines() == [
        "some.pt (a part) does not fit this configuration:",
        "  misshapen: 0.weight is (3, 5), expected (3, 2)",
        "  misshapen: 1.bias is (), expected (4,)",
        "  surplus: x",
        "  missing: 0.bias",
    ]
    assert same(module.state_dict(), before)


def test_what_was_given_twice_or_in_fewer_rows_is_told_unless_it_is_expected() -> None:
    own = {"table": torch.zeros(4, 2), "bias": torch.zeros(2)}
    check = StrictLoad(own, "some.pt")
    assert check.accepts("table", (3, 2), fewer_rows=True) and check.accepts("bias", (2,))
    check.finish()
    assert not check.accepts("bias", (2,), " in b.pt")
    with pytest.raises(UserError, match=r"^some\.pt does not fit this configuration:\n  twice: bias in b\.pt$"):
        check.finish()
    check = StrictLoad(own, "some.pt")
    assert not check.accepts("table", (3, 2)) and not check.accepts("bias", (5,), fewer_rows=True)
    with pytest.raises(
        UserError, match=r"misshapen: table is \(3, 2\), .*\n  misshapen: bias is \(5,\), expected \(2,\)$"
    ):
        check.finish(["table"])
    check = StrictLoad(own, "some.pt")
    check.accepts("bias", (2,))
    check.finish(["bias"])  # nothing else is wanted


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_stream_lets_go_of_what_it_gave(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {str(i): torch.full((256,), float(i)) for i in range(6)}  # of 1 KiB each
    file = tmp_path / f"a.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, file)
    opened, reopen = [], TensorFile.reopen
    monkeypatch.setattr(TensorFile, "reopen", lambda own: opened.append(own.path) or reopen(own))
    found = {name: tensor.clone() for _, name, tensor in stream_tensors([file], chunk=1500)}
    assert same(found, state) and len(opened) == 1 + 3
