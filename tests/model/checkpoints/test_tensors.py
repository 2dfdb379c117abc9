"""Foreign weights in: strictly, whole, as tensors alone, and CLIP the same from every format."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.backbones import load_sam2, load_strict
from model.checkpoints.tensor_names import from_published_name
from model.checkpoints.tensors import read_folder, read_tensors
from model.config import PixDLMConfig
from model.pixel_path import PixelPath
from utils.runtime.errors import UserError


class Payload:
    """What a malicious pickle does: it writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    with pytest.raises(UserError, match="model.safetensors.index.json: no index of shards"):
        list(read_folder(tmp_path))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: no model.safetensors, pytorch_model.bin or index"):
        list(read_folder(tmp_path))
    torch.save({"one": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert [path.name for path, _ in read_folder(tmp_path)] == ["pytorch_model.bin"]


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


# SAM2


def test_sam2s_own_file_fills_the_encoder(
    tmp_path: Path, tiny_config: PixDLMConfig, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    source = PixelPath(tiny_config).encoder
    state = {f"image_encoder.{name}": tensor for name, tensor in source.state_dict().items()}
    others = {"memory_encoder.x": torch.zeros(2), "sam_mask_decoder.y": torch.zeros(3), "no_mem_embed": torch.zeros(1)}
    torch.save({"model": {**state, **others}}, tmp_path / "sam2.pt")
    encoder = PixelPath(tiny_config).encoder
    with caplog.at_level(logging.INFO):
        load_sam2(encoder, tmp_path / "sam2.pt")
    assert same(encoder.state_dict(), source.state_dict())
    assert f"SAM2: {len(state)} tensors" in caplog.text and "3 of its video part not used" in caplog.text

    name = next(iter(state))
    torch.save({"model": {k: v for k, v in state.items() if k != name}}, tmp_path / "less.pt")
    with pytest.raises(UserError, match=rf"less\.pt \(SAM2 image encoder\)(.|\n)*missing: {name[14:]}"):
        load_sam2(encoder, tmp_path / "less.pt")
    torch.save(state, tmp_path / "flat.pt")
    with pytest.raises(UserError, match=r"flat\.pt: no 'model' in it"):
        load_sam2(encoder, tmp_path / "flat.pt")


# Names


@pytest.mark.parametrize(
    ("published", "here"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "language_model.model.layers.3.self_attn.q_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        (
            "model.mask_decoder.transformer.2.layers.1.mlp.lin2.bias",
            "mask_decoder.transformers.2.layers.1.mlp.layers.1.bias",
        ),
        ("model.vision_tower.align_stages.0.fast_proj.bias", "fusion.align.fast_proj.bias"),
        ("model.text_hidden_fcs.0.2.bias", "seg_projection.mlp.2.bias"),
        ("model.mask_decoder.level_embed.weight", "mask_decoder.level_embed.weight"),
    ],
)
def test_published_names_become_ours(published: str, here: str) -> None:
    assert from_published_name(published) == here


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match="model.image_newline"):
        from_published_name("model.image_newline")
