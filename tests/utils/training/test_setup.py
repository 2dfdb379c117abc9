"""utils.training.setup: what a run starts from, what trains, and what is missing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.checkpoints.export import save_published
from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.lora import lora_settings
from model.parts import PARTS
from model.pixdlm import PixDLMForCausalLM
from model.presets import mini_config, native_config
from tests.model.checkpoints.test_backbones_llava import llama as llama_of
from tests.model.checkpoints.test_backbones_llava import save_llava
from utils.cli.train_options import PRESETS, TrainArgs, parse_train
from utils.runtime.errors import UserError
from utils.training.setup import (
    build_config,
    build_on_backbones,
    build_training_model,
    check_weight_files,
    override,
    parts_to_train,
)


@pytest.fixture
def mini(tokenizer_file: Path) -> TrainArgs:
    """Options that start `mini` from scratch with the small tokenizer."""
    return TrainArgs(**{**PRESETS["mini"], "config": "mini", "tokenizer": str(tokenizer_file)})


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> TrainArgs:
    """Options that go on from a saved model."""
    save_model(tmp_path / "last", tiny_model, tokenizer, tiny_model.state_dict(), {})
    return TrainArgs(init_from=str(tmp_path / "last"), precision="fp32")


def trained_names(model: PixDLMForCausalLM) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# From scratch


def test_from_scratch_every_part_trains(mini: TrainArgs) -> None:
    model, tokenizer, trained = build_training_model(mini)
    assert model.training and trained.keys() == PARTS.keys()
    assert sum(trained.values()) == sum(one.numel() for one in model.parameters())
    assert all(one.requires_grad for one in model.parameters())
    assert model.config.text_config.vocab_size == len(tokenizer) == 335
    assert model.language_model.lm_head.out_features == 335
    assert tokenizer.system == ""  # the configuration's


def test_the_seed_decides_the_weights(mini: TrainArgs) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_training_model(mini)[0].state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["projector.weight"], states[2]["projector.weight"])


def test_overrides_and_adapters_reach_the_model(mini: TrainArgs) -> None:
    args = replace(mini, override=["mask_size=48"], lora_rank=2, lora_alpha=8.0, lora_targets=["k_proj"])
    model, _, trained = build_training_model(args)
    assert model.config.mask_size == 48
    assert model.config.lora == {"r": 2, "alpha": 8.0, "dropout": 0.05, "targets": ["k_proj"]}
    adapters = {name for name in trained_names(model) if "lora_" in name}
    assert len(adapters) == 2 * 2 and all("k_proj" in name for name in adapters)
    assert trained["lora"] == 2 * 2 * (128 + 128)


# From the published backbones


def test_backbones_are_read_in_the_runs_type_and_not_drawn_before(tmp_path: Path, tiny_config: PixDLMConfig) -> None:
    torch.manual_seed(1)
    source = PixDLMForCausalLM(tiny_config)
    clip, sam2 = source.semantic_path.clip, source.pixel_path.encoder
    clip.save_pretrained(tmp_path / "clip")
    torch.save({"model": {f"image_encoder.{k}": v for k, v in sam2.state_dict().items()}}, tmp_path / "sam2.pt")
    llama = llama_of(tiny_config, added=0)
    save_llava(tmp_path / "llava", llama, {"model.image_newline": torch.zeros(4)})

    empty = PixDLMForCausalLM(tiny_config, empty_backbones=True)
    drawn = {name.partition(".")[0] for name, one in empty.named_parameters() if not one.is_meta}
    assert drawn == {"fusion", "projector", "seg_projection", "mask_decoder"}
    assert all(one.is_meta for name, one in empty.named_parameters() if name.partition(".")[0] not in drawn)

    files = {name: str(tmp_path / name) for name in ("llava", "clip")}
    args = TrainArgs(**files, sam2=str(tmp_path / "sam2.pt"), precision="bf16")
    tiny_config.lora = lora_settings(2, 4.0, 0.0, ["q_proj"])
    model, fresh = build_on_backbones(tiny_config, args)
    assert fresh == drawn and model.config.lora["r"] == 2 and not any(one.is_meta for one in model.parameters())
    state = model.state_dict()
    for prefix, part in (("semantic_path.clip.", clip), ("pixel_path.encoder.", sam2)):
        for name, tensor in part.state_dict().items():
            assert torch.equal(state[prefix + name], tensor.to(state[prefix + name].dtype)), name
            assert state[prefix + name].dtype == (torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)
    for name, tensor in llama.state_dict().items():
        own = state.get(f"language_model.{name}")
        own = state[f"language_model.{name}".replace("q_proj.", "q_proj.base_layer.")] if own is None else own
        assert own.dtype == torch.bfloat16 and torch.equal(own[: len(tensor)], tensor.bfloat16()), name
        added = own[len(tensor) :].float()
        assert not added.numel() or 0.01 < added.std() < 0.03  # as Llama draws its rows
    adapters = [one for name, one in model.named_parameters() if "lora_A" in name]
    assert len(adapters) == 2 and all(one.abs().sum() > 0 for one in adapters)
    model.cast(torch.bfloat16)
    assert torch.isfinite(model.language_model(torch.arange(5)[None]).logits).all()


# From a folder of this project


def test_a_run_can_go_on_from_a_folder(
    checkpoint: TrainArgs, tiny_model: PixDLMForCausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model, _, trained = build_training_model(checkpoint)
    assert f"starts from {checkpoint.init_from}; its configuration is used, not native" in caplog.text
    saved = tiny_model.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert trained.keys() == PARTS.keys() - {"clip", "sam2", "language_model"}
    assert not any(name.startswith(("semantic_path", "pixel_path")) for name in trained_names(model))


def test_more_parts_train_where_they_are_named(checkpoint: TrainArgs) -> None:
    model, _, trained = build_training_model(replace(checkpoint, train_parts=["clip"]))
    assert {"clip", "fusion"} <= trained.keys() and "sam2" not in trained
    assert all(one.requires_grad for one in model.semantic_path.parameters())


def test_unknown_parts_are_named_and_known_ones_listed(checkpoint: TrainArgs) -> None:
    with pytest.raises(UserError, match="--train-parts: unknown part roof; known are clip, sam2, fusion"):
        build_training_model(replace(checkpoint, train_parts=["roof", "clip"]))


def test_the_fusion_trains_only_where_the_configuration_lets_it(tiny_config: PixDLMConfig) -> None:
    assert "fusion" in parts_to_train(tiny_config, set())
    tiny_config.trainable_fusion = False
    assert "fusion" not in parts_to_train(tiny_config, {"clip"})
    assert "fusion" in parts_to_train(tiny_config, {"fusion"})


# Overrides


def test_an_override_changes_its_field_alone() -> None:
    config = override(mini_config(), ["mask_size=48", "system_prompt=Drone pictures.", "trainable_fusion=false"])
    assert (config.mask_size, config.system_prompt, config.trainable_fusion) == (48, "Drone pictures.", False)
    changed = {"mask_size", "system_prompt", "trainable_fusion"}
    before, after = mini_config().to_dict(), config.to_dict()
    assert {name for name in after if after[name] != before[name]} == changed
    assert override(mini_config(), []).to_dict() == before


def test_flags_are_read_in_any_case() -> None:
    changed = override(mini_config(), ["trainable_fusion=False", "single_target=TRUE"])
    assert (changed.trainable_fusion, changed.single_target) == (False, True)


def test_a_dictionary_changes_what_it_names() -> None:
    vision = override(native_config(), ['vision_config={"hidden_act": "gelu"}']).vision_config
    assert {**native_config().vision_config.to_dict(), "hidden_act": "gelu"} == vision.to_dict()
    text = override(mini_config(), ['text_config={"num_attention_heads": 2}']).text_config
    assert (text.num_key_value_heads, text.head_dim, text.num_hidden_layers) == (2, 64, 2)


@pytest.mark.parametrize("change", ["mask_sise=48", "mask_size", "=48", "text_config.hidden_size=64"])
def test_an_override_needs_a_field_and_a_value(change: str) -> None:
    with pytest.raises(UserError, match=f"--override '{change}': expected field=value"):
        override(mini_config(), [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("geometry=round", "--override: geometry is 'round'; known are centre_crop, letterbox"),
        ("pixel_image_size=100", "--override: pixel_image_size 100 is no multiple of 32"),
        ("text_config=5", "--override"),
        ("single_target=maybe", "--override: single_target is 'maybe', expected true or false"),
        ('vision_config={"patch_size": 0}', "--override: ZeroDivisionError "),
        ('text_config={"hidden_size": "many"}', "--override: StrictDataclassFieldValidationError "),
        ('lora={"r": 2}', "--override: lora is {'r': 2}, expected alpha, dropout, r, targets"),
    ],
)
def test_an_override_is_checked(change: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        override(mini_config(), [change])
    assert str(caught.value).startswith(message)


# Mistakes


@pytest.mark.parametrize(
    "change",
    [
        {"override": ["pixel_encoder=hiera_xxl"]},
        {"override": ["image_grid=many"]},
        {"override": ['pixel_encoder={"trunk": {"stages": [1]}}']},
        {"override": ['vision_config={"hidden_act": "wavy"}']},
        {"override": ["mask_heads=7"]},
        {"lora_rank": 2, "lora_targets": ["nothing_proj"]},
    ],
    ids=lambda change: str(change),
)
def test_an_option_that_does_not_fit_the_model_is_a_users_error(mini: TrainArgs, change: dict) -> None:
    with pytest.raises(UserError):
        build_training_model(replace(mini, **change))


def test_published_weights_need_their_own_vocabulary(tokenizer_file: Path) -> None:
    args = TrainArgs(config="native", tokenizer=str(tokenizer_file))
    with pytest.raises(UserError, match=r"tokenizer\.model: 320 pieces, .* vocabulary of 32000"):
        build_config(args)


def test_missing_weights_are_all_named_with_their_source_and_mini_as_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from utils.download import sources as published

    monkeypatch.setattr(published.require, "__defaults__", (None, tmp_path))  # a checkout without weights
    with pytest.raises(UserError) as caught:
        check_weight_files(TrainArgs(data=str(tmp_path / "data" / "DRSeg")))
    said = str(caught.value)
    for part in ("weights/llava/tokenizer.model", "weights/clip/", "sam2.1_hiera_large.pt", "data/DRSeg/labels"):
        assert part in said
    for source in ("openai/clip-vit-large-patch14", "facebook/sam2.1-hiera-large", "liuhaotian/llava-v1.6-vicuna-7b"):
        assert source in said
    assert "python -m utils.download --what" in said and "bash train.sh mini" in said


def test_weights_in_a_place_of_ones_own_are_looked_for_there(tiny_drseg: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "llava").mkdir()
    args = TrainArgs(data=str(tiny_drseg), clip=str(tmp_path / "clip"), llava=str(tmp_path / "llava"), sam2="no.pt")
    with pytest.raises(UserError, match=r"--sam2 no\.pt: no such file or folder"):
        check_weight_files(args)
    (tmp_path / "own.pt").touch()
    check_weight_files(replace(args, sam2=str(tmp_path / "own.pt")))


def test_from_scratch_no_weights_are_asked_for(mini: TrainArgs) -> None:
    check_weight_files(mini)


# The fusion that the published checkpoint lacks


@pytest.fixture
def published(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    """A published folder without fusion weights."""
    save_published(tmp_path / "pixdlm", tiny_model, tokenizer, {})
    (tmp_path / "pixdlm" / "align_stages.bin").unlink()
    return tmp_path / "pixdlm"


def test_the_fusion_alone_trains_on_a_published_folder(published: Path) -> None:
    model, _, trained = build_training_model(
        TrainArgs(init_from=str(published), fusion="neutral", train_only=["fusion"])
    )
    assert trained.keys() == {"fusion"}
    assert trained_names(model) == {name for name, _ in model.named_parameters() if name.startswith("fusion.")}
    assert not model.config.neutral_fusion  # it has weights of its own from now on
    with pytest.raises(UserError, match="no fusion weights"):
        build_training_model(TrainArgs(init_from=str(published), train_only=["fusion"]))
    with pytest.raises(UserError, match="--train-only: unknown part hat"):
        build_training_model(TrainArgs(init_from=str(published), fusion="neutral", train_only=["hat"]))


def test_adapters_are_fixed_where_only_another_part_trains(
    tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer, mini: TrainArgs
) -> None:
    tiny_config.lora = lora_settings(2, 4.0, 0.0, ["q_proj"])
    model = PixDLMForCausalLM(tiny_config)
    save_model(tmp_path / "adapted", model, tokenizer, model.state_dict(), {})
    _, _, trained = build_training_model(TrainArgs(init_from=str(tmp_path / "adapted"), train_only=["projector"]))
    assert trained.keys() == {"projector"}
    with pytest.raises(UserError, match="--train-only projector: .*mask_decoder.* would stay random"):
        build_training_model(replace(mini, train_only=["projector"]))


def test_release_with_the_fusion_alone_starts_from_the_published_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = parse_train(["--config", "release", "--train-only", "fusion", "--data", str(tmp_path)])
    assert (args.init_from, args.fusion) == ("PixDLM/weights/pixdlm", "neutral")
    monkeypatch.setattr("utils.download.sources.require.__defaults__", (None, tmp_path))
    with pytest.raises(UserError, match=r"(?s)weights/pixdlm/pytorch_model\.bin.*--what pixdlm clip sam2"):
        check_weight_files(args)
    with pytest.raises(UserError, match="--train-only names all that trains"):
        parse_train(["--config", "release", "--train-only", "fusion", "--train-parts", "clip"])
