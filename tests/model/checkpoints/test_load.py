"""model.checkpoints.load: a model from any folder, strictly; and nothing that runs code."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

import model as package
from model.checkpoints.export import save_own
from model.checkpoints.load import load_pretrained
from model.checkpoints.save import save_model
from model.checkpoints.tensor_names import PUBLISHED_TRAINING, to_published_name
from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.lora import lora_settings
from model.pixdlm import PixDLMForCausalLM, load_model
from tests.model.checkpoints.states import RELEASE, equal
from tests.permissions import refused
from utils.runtime.errors import UserError


def change(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    """Edit the tensors of pytorch_model.bin."""
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    edit(state)
    torch.save(state, folder / "pytorch_model.bin")


# The published folder


def test_derived_tensors_are_passed_over_by_name(published: Path, release_model: PixDLMForCausalLM) -> None:
    change(published, lambda state: state.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert equal(load_pretrained(PixDLMForCausalLM, published), release_model)


def test_every_tensor_that_does_not_fit_is_listed(published: Path) -> None:
    def edit(state: dict[str, Tensor]) -> None:
        del state["model.norm.weight"]
        state["lm_head.weight"] = state["lm_head.weight"][:-1]
        state["model.surprise"] = torch.zeros(1)

    change(published, edit)
    with pytest.raises(UserError) as error:
        load_pretrained(PixDLMForCausalLM, published)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines[0].startswith("misshapen: language_model.lm_head.weight is (334, 32), expected (335, 32)")
    assert set(lines[1:]) == {"surplus: model.surprise", "missing: language_model.model.norm.weight"}


def test_an_adapter_for_no_layer_is_told(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_own(tmp_path / "one", tiny_model, tokenizer, {}, without_backbones=False)
    fields = json.loads((tmp_path / "one" / "config.json").read_text())
    whole = {"r": 2, "alpha": 4, "dropout": 0, "targets": ["qkv"]}
    cases = [(whole, "no model can be built like its configuration says"), ({"r": 2}, r"lora is \{'r': 2\}, expected")]
    for lora, message in cases:
        (tmp_path / "one" / "config.json").write_text(json.dumps(fields | {"lora": lora}))
        with pytest.raises(UserError, match=message):
            load_pretrained(PixDLMForCausalLM, tmp_path / "one")


# A training checkpoint after ZeRO-to-fp32


@pytest.mark.parametrize("peft", ["older", "newer"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_published_training_checkpoint(tmp_path: Path, tiny_config: PixDLMConfig, peft: str, shards: int) -> None:
    config = PixDLMConfig.from_dict({**tiny_config.to_dict(), **RELEASE})
    config.lora = lora_settings(2, 16.0, 0.0, ["q_proj", "v_proj"])
    torch.manual_seed(0)
    model = PixDLMForCausalLM(config).eval()
    layer = "" if peft == "older" else ".base_layer"
    state = {
        PUBLISHED_TRAINING + to_published_name(name).replace(".base_layer", layer): tensor
        for name, tensor in model.state_dict().items()
    }
    assert sum("lora_" in name for name in state) == 8
    names = list(state)
    files = [f"pytorch_model-{i}.bin" for i in range(shards)] if shards > 1 else ["pytorch_model.bin"]
    for number, file in enumerate(files):
        torch.save({name: state[name] for name in names[number::shards]}, tmp_path / file)
    if shards > 1:
        places = {name: files[i % shards] for i, name in enumerate(names)}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    fields = {
        "architectures": ["PixDLMForCausalLM"],
        "model_type": "llava",
        "pixdlm": config.to_dict() | {"lora": None},
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    read = load_pretrained(PixDLMForCausalLM, tmp_path)
    assert equal(read, model)
    assert (read.config.lora["r"], read.config.lora["alpha"]) == (2, 16.0)
    assert read.config.lora["targets"] == ["q_proj", "v_proj"]


# Safe


class Runs:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple:
        return eval, ("print('it ran')",)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "align_stages.bin", "sam2.pt"])
def test_a_pickle_that_runs_code_is_refused(published: Path, file: str, capsys: pytest.CaptureFixture) -> None:
    torch.save({"model.norm.weight": Runs()}, published / file)
    with pytest.raises(UserError, match=rf"{re.escape(file)}: not read, .*eval"):
        load_pretrained(PixDLMForCausalLM, published)
    (published / file).write_bytes(pickle.dumps({"model.norm.weight": Runs()}, protocol=2))
    with pytest.raises(UserError, match=rf"{re.escape(file)}: "):
        load_pretrained(PixDLMForCausalLM, published)
    assert "it ran" not in capsys.readouterr().out


def test_what_is_no_tensor_is_named(published: Path) -> None:
    change(published, lambda state: state.update({"model.norm.weight": [1, 2]}))
    with pytest.raises(UserError, match=r"model\.norm\.weight is a list, not a tensor"):
        load_pretrained(PixDLMForCausalLM, published)


# transformers' own ways


def test_auto_classes_find_the_package(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, collate: Callable[..., Batch]
) -> None:
    folder = tmp_path / "model"
    save_own(folder, tiny_model, tokenizer, {}, without_backbones=False)
    assert type(AutoConfig.from_pretrained(folder)) is package.PixDLMConfig
    auto = AutoModelForCausalLM.from_pretrained(folder)
    assert type(auto) is package.PixDLMForCausalLM and equal(auto, tiny_model)
    assert AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.float32
    processor = AutoProcessor.from_pretrained(folder)
    batch = collate(0, 1)
    found = processor([one.image_path for one in batch.samples], [one.question for one in batch.samples])
    assert torch.equal(found.input_ids, batch.input_ids) and torch.equal(found.sam_pixels, batch.sam_pixels)
    with torch.no_grad():
        assert torch.equal(auto(found).mask_logits[0], tiny_model(batch).mask_logits[0])
    assert processor([batch.samples[0].image_path], ["Which?"], targets=None).labels.max() < 0


def test_what_transformers_saves_is_read(tmp_path: Path, tiny_model: PixDLMForCausalLM) -> None:
    tiny_model.save_pretrained(tmp_path)
    assert equal(PixDLMForCausalLM.from_pretrained(tmp_path), tiny_model)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # weights are as readable as config.json


def test_code_in_a_folder_is_never_run(tmp_path: Path, tiny_model: PixDLMForCausalLM) -> None:
    tiny_model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    assert equal(AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True), tiny_model)


def test_unknown_options_and_names_are_told(tmp_path: Path, tiny_model: PixDLMForCausalLM) -> None:
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="unknown options colour"):
        PixDLMForCausalLM.from_pretrained(tmp_path, colour="red")
    with pytest.raises(UserError, match="no such model folder"):
        PixDLMForCausalLM.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="some/model: no such folder, and the hub does not give it"):
        PixDLMForCausalLM.from_pretrained("some/model", local_files_only=True)


def test_a_whole_folder_still_lists_what_a_part_lacks(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    state = tiny_model.state_dict()
    name = next(name for name in state if name.startswith("pixel_path."))
    save_model(tmp_path / "one", tiny_model, tokenizer, {n: t for n, t in state.items() if n != name}, {})
    with pytest.raises(UserError, match=f"missing: {re.escape(name)}"):
        load_pretrained(PixDLMForCausalLM, tmp_path / "one")
    cut = tmp_path / "one" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or cut off"):
        load_pretrained(PixDLMForCausalLM, tmp_path / "one")


# Types


def test_a_model_takes_the_type_that_is_asked_for(folder: Path) -> None:
    model, _ = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_half_precision_rounds_weights_and_no_frequencies(folder: Path) -> None:
    whole, half = (load_model(folder, dtype=dtype)[0] for dtype in (torch.float32, torch.bfloat16))
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    buffers = dict(whole.named_buffers())
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in half.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


# What bad folders get

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


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model", ""])
def test_what_may_not_be_read_is_told_as_that(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, name: str
) -> None:
    folder = tmp_path / "best"
    save_model(folder, tiny_model, tokenizer, tiny_model.state_dict(), {})
    with refused(folder / name), pytest.raises(UserError, match="permission denied") as told:
        load_model(folder)
    assert str(folder / name) in str(told.value)
    assert not any(word in str(told.value) for word in ("damaged", "fetch", "no such"))
