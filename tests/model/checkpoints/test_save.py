"""model.checkpoints.save: folders that are whole or not there, and strict loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.layouts import load_config
from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.lora import lora_settings
from model.pixdlm import PixDLMForCausalLM, load_model
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_folder


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    """A model folder."""
    save_model(tmp_path / "best", tiny_model, tokenizer, tiny_model.state_dict(), {"epoch": 3})
    return tmp_path / "best"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Writing


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "runs" / "last") as beside:
            (beside / name).write_text(name)
            assert "second" not in [path.name for path in (tmp_path / "runs").glob("last/*")]
        assert content(tmp_path / "runs" / "last") == {name: name.encode()}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["last"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_old_folder_is_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "weights").write_text("old")
    with pytest.raises(error), atomic_folder(tmp_path / "last") as beside:
        (beside / "weights").write_text("half")
        raise error
    assert content(tmp_path / "last") == {"weights": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "weights").write_text("old")
    rename = Path.rename

    def refusing(path: Path, to: Path) -> Path:
        if path.name.endswith(".writing"):
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(tmp_path / "last"):
        pass
    assert content(tmp_path / "last") == {"weights": b"old"}


def test_what_a_killed_process_left_is_not_mixed_in(tmp_path: Path) -> None:
    for left in (".last.writing", ".last.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "stale").write_text("half")
    (tmp_path / "last").mkdir()
    with atomic_folder(tmp_path / "last") as beside:
        (beside / "weights").write_text("new")
    assert content(tmp_path / "last") == {"weights": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


# There and back


def test_what_was_saved_is_loaded(folder: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> None:
    assert sorted(content(folder)) == ["config.json", "model.safetensors", "tokenizer.model", "training.json"]
    assert json.loads((folder / "training.json").read_text()) == {"epoch": 3}
    model, loaded_tokenizer = load_model(folder)
    saved, loaded = tiny_model.state_dict(), model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert not model.training
    assert model.config.to_dict() | {"dtype": None} == tiny_model.config.to_dict() | {"dtype": None}
    assert len(loaded_tokenizer) == len(tokenizer) and loaded_tokenizer.system == tokenizer.system
    assert loaded_tokenizer.prompt("Which car is red?") == tokenizer.prompt("Which car is red?")


def test_adapters_are_part_of_a_folder(tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> None:
    tiny_config.lora = lora_settings(2, 4.0, 0.0, ["q_proj"])
    model = PixDLMForCausalLM(tiny_config)
    save_model(tmp_path / "last", model, tokenizer, model.state_dict(), {})
    loaded, _ = load_model(str(tmp_path / "last"))
    adapters = {name: tensor for name, tensor in loaded.state_dict().items() if "lora_" in name}
    assert len(adapters) == 4
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in adapters.items())


def test_a_model_takes_the_type_that_is_asked_for(folder: Path) -> None:
    model, _ = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    load_model(tmp_path / "elsewhere")


# What bad folders get


def test_a_missing_folder_and_one_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such model folder; .*PixDLM/mini"):
        load_model(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.json in it"):
        load_model(tmp_path)


BAD_CONFIGS: list[tuple[Callable[[dict], object], str]] = [
    (lambda fields: "{cut", r"config\.json: not JSON"),
    (lambda fields: [1], r"config\.json: model_type is 'list', expected 'pixdlm'"),
    (
        lambda fields: fields | {"model_type": "llava", "architectures": ["LlavaForCausalLM"]},
        r"model_type is 'llava', expected 'pixdlm'",
    ),
    (lambda fields: fields | {"geometry": "round"}, r"config\.json: geometry is 'round'; known are"),
    (
        lambda fields: fields | {"text_config": fields["text_config"] | {"hidden_size": "many"}},
        r"config\.json: StrictDataclassFieldValidationError .*'hidden_size'",
    ),
    (lambda fields: fields | {"pixel_encoder": {}}, r"no model can be built like its configuration says: KeyError"),
    (lambda fields: fields | {"text_config": fields["text_config"] | {"vocab_size": 99}}, r"335 tokens, but .* 99"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS, ids=[message for _, message in BAD_CONFIGS])
def test_a_bad_configuration_is_named(folder: Path, change: Callable[[dict], object], message: str) -> None:
    changed = change(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_all_tensors_that_do_not_fit_are_listed(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["projector.bias"], state["language_model.lm_head.weight"]
    state["projector.weight"] = torch.zeros(3, 5)
    state["other.weight"] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    first, *problems = str(caught.value).splitlines()
    assert first == f"{folder} does not fit this configuration:"
    assert sorted(problems) == [
        "  misshapen: projector.weight is (3, 5), expected (32, 32)",
        "  missing: language_model.lm_head.weight",
        "  missing: projector.bias",
        "  surplus: other.weight",
    ]


def test_cut_and_missing_weights_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or cut off"):
        load_model(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"best: no model\.safetensors"):
        load_model(folder)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model: no such tokenizer file"):
        load_model(folder)


def test_the_configuration_alone_can_be_read(folder: Path, tiny_config: PixDLMConfig) -> None:
    (folder / "model.safetensors").unlink()
    config = load_config(folder)
    assert config.pixel_encoder == tiny_config.pixel_encoder
    assert config.text_config.hidden_size == 32 and config.vision_config.image_size == 64


def test_half_precision_rounds_weights_and_no_frequencies(folder: Path) -> None:
    whole, half = (load_model(folder, dtype=dtype)[0] for dtype in (torch.float32, torch.bfloat16))
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    buffers = dict(whole.named_buffers())
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in half.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
