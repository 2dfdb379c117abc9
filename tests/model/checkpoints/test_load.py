"""A model from any folder: published, merged or in training, strictly; and nothing that runs code."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

import model as package
from model.checkpoints.backbones import Backbones
from model.checkpoints.export import published_fields, save_own, save_published
from model.checkpoints.layouts import load_config, renamed_shapes, renamed_tensors
from model.checkpoints.load import load_pretrained
from model.checkpoints.save import save_model
from model.checkpoints.tensor_names import PUBLISHED_TRAINING, from_published_name, to_published_name
from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.lora import lora_settings
from model.pixdlm import PixDLMForCausalLM
from model.presets import release_config
from utils.runtime.errors import UserError

NUMBERS = Path(__file__).resolve().parents[2] / "golden"
RELEASE = {
    "geometry": "centre_crop",
    "pixel_input": "clip_tensor",
    "pixel_pyramid": False,
    "clip_positions": "published_shift",
    "trainable_fusion": False,
    "trainable_token_weights": False,
    "single_target": True,
}


def equal(one: PixDLMForCausalLM, other: PixDLMForCausalLM) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def release_model(tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    """Tiny, and everything `release`."""
    torch.manual_seed(0)
    return PixDLMForCausalLM(PixDLMConfig.from_dict({**tiny_config.to_dict(), **RELEASE})).eval()


@pytest.fixture
def published(tmp_path: Path, release_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    """A published folder with clip/, sam2.pt and align_stages.bin in it."""
    save_published(tmp_path / "published", release_model, tokenizer, {})
    return tmp_path / "published"


def change(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    """Edit the tensors of pytorch_model.bin."""
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    edit(state)
    torch.save(state, folder / "pytorch_model.bin")


# Names


def test_every_published_name_has_one_of_ours_and_back() -> None:
    names = list(json.loads((NUMBERS / "tensors.json").read_text())["tensors"])
    ours = [from_published_name(name) for name in names]
    assert len(set(ours)) == len(names) == 542
    assert [to_published_name(name) for name in ours] == names
    assert [from_published_name(PUBLISHED_TRAINING + name) for name in names] == ours


def test_every_tensor_of_ours_has_a_published_name(tiny_model: PixDLMForCausalLM) -> None:
    names = list(tiny_model.state_dict())
    published = [to_published_name(name) for name in names]
    assert len(set(published)) == len(names)
    assert [from_published_name(name) for name in published] == names


# The published folder


@pytest.mark.parametrize("kind", ["release_model", "tiny_model"])
def test_written_as_published_and_read(
    tmp_path: Path, tokenizer: PixTokenizer, request: pytest.FixtureRequest, kind: str
) -> None:
    model = request.getfixturevalue(kind)
    save_published(tmp_path / "out", model, tokenizer, {})
    state = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert not any("vision_tower" in name for name in state)
    read = load_pretrained(PixDLMForCausalLM, tmp_path / "out")
    assert equal(read, model) and not read.training
    assert read.config.to_dict() | {"dtype": 0} == model.config.to_dict() | {"dtype": 0}
    shapes = dict(renamed_shapes(tmp_path / "out", model.config))
    tensors = dict(renamed_tensors(tmp_path / "out", model.config))
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_config_as_published_gives_release_in_its_dimensions(tmp_path: Path) -> None:
    fields = {"architectures": ["PixDLMForCausalLM"], "model_type": "llava", "hidden_size": 512, "vocab_size": 32_015}
    (tmp_path / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 3, "mm_hidden_size": 1024}))
    torch.save({"model.norm.weight": torch.zeros(512)}, tmp_path / "pytorch_model.bin")
    config = load_config(tmp_path)
    assert (config.geometry, config.text_config.num_hidden_layers, config.pixel_embed_width) == ("centre_crop", 3, 512)
    assert config.text_config.vocab_size == 32_015 and config.lora is None


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


def test_without_fusion_weights_it_is_explained(published: Path, release_model: PixDLMForCausalLM) -> None:
    (published / "align_stages.bin").rename(published.parent / "elsewhere.bin")
    with pytest.raises(UserError, match=r"no fusion weights\. .*--fusion neutral .*--train-only fusion"):
        load_pretrained(PixDLMForCausalLM, published)
    with pytest.raises(UserError, match=r"--fusion .*gone\.bin: no such file"):
        load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion=published / "gone.bin"))
    named = load_pretrained(
        PixDLMForCausalLM, published, backbones=Backbones(fusion=published.parent / "elsewhere.bin")
    )
    assert equal(named, release_model) and not named.config.neutral_fusion


def test_the_neutral_fusion_is_marked_and_leaves_clip_as_it_is(published: Path) -> None:
    (published / "align_stages.bin").unlink()
    model = load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion="neutral"))
    assert model.config.neutral_fusion and model.config.to_diff_dict()["neutral_fusion"]
    tokens, pixels = torch.randn(2, 16, 32), torch.randn(2, model.pixel_path.channels, 4, 4)
    for stage in range(4):
        torch.testing.assert_close(model.fusion(stage, tokens, pixels), tokens)


@pytest.mark.parametrize(("part", "option"), [("clip", "--clip"), ("sam2.pt", "--sam2")])
def test_a_missing_backbone_is_named(published: Path, part: str, option: str) -> None:
    (published / part).rename(published.parent / f"other-{part}")
    with pytest.raises(UserError, match=rf"there is no .*{re.escape(part)}.*name it with {option}"):
        load_pretrained(PixDLMForCausalLM, published)
    field = option.removeprefix("--")
    load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(**{field: published.parent / f"other-{part}"}))


def test_a_fusion_file_of_something_else_is_refused(published: Path) -> None:
    torch.save({"head.weight": torch.zeros(1)}, published / "align_stages.bin")
    with pytest.raises(UserError, match=r"align_stages\.bin: 'head\.weight' is no align_stages tensor"):
        load_pretrained(PixDLMForCausalLM, published)


def test_fusion_weights_of_its_own_are_not_passed_over(published: Path) -> None:
    for fusion in ("neutral", published / "align_stages.bin"):
        with pytest.raises(UserError, match="has fusion weights of its own"):
            load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion=fusion))


def test_a_real_fusion_takes_the_mark_away(
    tmp_path: Path, published: Path, release_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    (published / "align_stages.bin").rename(tmp_path / "real.bin")
    neutral = load_pretrained(PixDLMForCausalLM, published, backbones=Backbones(fusion="neutral"))
    save_published(tmp_path / "marked", neutral, tokenizer, {})
    assert load_pretrained(PixDLMForCausalLM, tmp_path / "marked").config.neutral_fusion
    (tmp_path / "marked" / "align_stages.bin").unlink()
    real = load_pretrained(PixDLMForCausalLM, tmp_path / "marked", backbones=Backbones(fusion=tmp_path / "real.bin"))
    assert equal(real, release_model) and not real.config.neutral_fusion


def test_published_fields_alone_give_release(tmp_path: Path) -> None:
    """As the published config.json has them, without this project's own entry."""
    fields = published_fields(release_config())
    del fields["pixdlm"]
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    torch.save({"model.norm.weight": torch.zeros(4)}, tmp_path / "pytorch_model.bin")
    assert load_config(tmp_path).to_dict() == release_config().to_dict()
    fields |= {"hidden_size": 512, "num_attention_heads": 8, "rope_theta": 5e5}
    fields = {name: value for name, value in fields.items() if name not in ("head_dim", "num_key_value_heads")}
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    llama = load_config(tmp_path).text_config
    assert (llama.head_dim, llama.num_key_value_heads, llama.rope_parameters["rope_theta"]) == (64, 8, 5e5)
    (tmp_path / "config.json").write_text(json.dumps(fields | {"rope_scaling": {"factor": 2}}, default=str))
    with pytest.raises(UserError, match="rope_scaling is .* not supported"):
        load_config(tmp_path)


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


def test_one_without_any_config_is_release(tmp_path: Path) -> None:
    torch.save({"base_model.model.model.norm.weight": torch.zeros(4)}, tmp_path / "pytorch_model.bin")
    assert load_config(tmp_path).text_config.hidden_size == 4096


def test_a_shard_outside_its_folder_is_refused(tmp_path: Path, published: Path) -> None:
    places = {"model.norm.weight": "../../elsewhere.bin"}
    (published / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match="names a shard outside its folder"):
        load_pretrained(PixDLMForCausalLM, published)


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


# Folders without backbones


def test_a_folder_of_ours_without_backbones(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_own(tmp_path / "slim", tiny_model, tokenizer, {}, without_backbones=True)
    save_published(tmp_path / "published", tiny_model, tokenizer, {})
    with pytest.raises(UserError, match="holds no CLIP"):
        load_pretrained(PixDLMForCausalLM, tmp_path / "slim")
    files = Backbones(clip=tmp_path / "published" / "clip", sam2=tmp_path / "published" / "sam2.pt")
    assert equal(load_pretrained(PixDLMForCausalLM, tmp_path / "slim", backbones=files), tiny_model)


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
