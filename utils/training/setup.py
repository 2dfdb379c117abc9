"""The model that training starts from: configuration, tokenizer, weights, and which parts train."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from model.checkpoints.backbones import Backbones, load_clip, load_llava, load_sam2
from model.checkpoints.load import load_parts, load_tokenizer, parts_settings
from model.config import LLAMA_DERIVED, PixDLMConfig
from model.language.tokens import ADDED_TOKENS, PixTokenizer
from model.lora import add_lora, lora_settings
from model.losses import LossWeights
from model.parts import DEFAULT_TRAINED, PARTS, set_trainable
from model.pixdlm import PixDLMForCausalLM, load_model
from model.presets import named_config
from utils.cli.train_options import TrainArgs
from utils.download import sources as published
from utils.runtime.errors import UserError, config_errors_as_user_error
from utils.runtime.json_files import parse_json
from utils.runtime.paths import exists, is_file
from utils.runtime.precision import DTYPES

log = logging.getLogger(__name__)


def build_training_model(args: TrainArgs) -> tuple[PixDLMForCausalLM, PixTokenizer, dict[str, int]]:
    """The model to train, its tokenizer, and the trained parameters by part.

    Parts without loaded weights always train: frozen random weights are useless.

    Raises:
        UserError: weights are missing, damaged or do not fit, or an option does not fit the model.
    """
    if args.init_from and not is_file(args.init_from):
        model, tokenizer = load_model(args.init_from, dtype=DTYPES[args.precision], backbones=backbones(args))
        set_answer_format(model.config, args)
        log.info("starts from %s; its configuration is used, not %s", args.init_from, args.config)
        fresh: set[str] = set()
    else:
        config, tokenizer = build_config(args)
        neutral = False
        if args.init_from:
            adapters, neutral = parts_settings(Path(args.init_from))
            config.lora = adapters or config.lora  # as they were trained, whatever the options say
        model, fresh = (build_model(config), set(PARTS)) if args.from_scratch else build_on_backbones(config, args)
        if args.init_from:
            read = load_parts(model, Path(args.init_from))
            model.config.neutral_fusion = neutral and "fusion" in read
            fresh -= read
        log.info("starts fresh: %s", ", ".join(part for part in PARTS if part in fresh))
        if not args.from_scratch:
            log.info("and fresh: rows of the added tokens in embed_tokens and lm_head, adapters that were not read")
    if args.grounding_weight and model.config.geometry != "letterbox":
        raise UserError(
            f"--grounding-weight is {args.grounding_weight}, which needs letterboxed frames; this model's geometry is "
            f"{model.config.geometry!r}, so set it to 0"
        )
    model.train()
    only = set(args.train_only)
    parts = only or parts_to_train(model.config, fresh | set(args.train_parts))
    try:
        trained = set_trainable(model, parts, adapters=not only)
    except ValueError as error:
        raise UserError(f"--{'train-only' if only else 'train-parts'}: {error}") from error
    if "fusion" in trained:
        model.config.neutral_fusion = False  # it has weights of its own from the first step on
    if only and fresh - only:
        raise UserError(
            f"--train-only {' '.join(sorted(only))}: {', '.join(sorted(fresh - only))} would stay "
            "random; start from a model that has them (--init-from)"
        )
    if not trained:
        raise UserError("nothing trains; name parts with --train-parts")
    return model, tokenizer, trained


def read_config(args: TrainArgs) -> tuple[PixDLMConfig, PixTokenizer]:
    """Configuration and tokenizer of the model that `build_training_model` makes, before any weight is read."""
    if args.init_from and not Path(args.init_from).is_file():
        tokenizer, config = load_tokenizer(Path(args.init_from))
        set_answer_format(config, args)
        return config, tokenizer
    return build_config(args)


def set_answer_format(config: PixDLMConfig, args: TrainArgs) -> None:
    """Let a configuration say what of an answer the run learns, where the options name it."""
    config.answer_format = args.targets or config.answer_format


def backbones(args: TrainArgs) -> Backbones:
    """The files for a published folder: the named ones; None searches in and beside it."""
    stock = options_at_default(args, "clip", "sam2")
    clip, sam2 = (None if name in stock else getattr(args, name) for name in ("clip", "sam2"))
    return Backbones(clip, sam2, args.fusion)


def options_at_default(args: TrainArgs, *names: str) -> list[str]:
    """Those of the options that have their default value."""
    default = TrainArgs()
    return [name for name in names if getattr(args, name) == getattr(default, name)]


def build_model(config: PixDLMConfig, empty_backbones: bool = False) -> PixDLMForCausalLM:
    """A new model, or one whose SAM2, CLIP and Llama are on the meta device.

    Raises:
        UserError: values of the configuration do not fit each other.
    """
    with config_errors_as_user_error("--override or --lora-targets: no model can be built like this"):
        return PixDLMForCausalLM(config, empty_backbones)


def parts_to_train(config: PixDLMConfig, more: set[str]) -> set[str]:
    """The default parts and `more`; the fusion by default only where the configuration lets it train."""
    usual = {part for part in DEFAULT_TRAINED if part != "fusion" or config.trainable_fusion}
    return usual | more


def build_config(args: TrainArgs) -> tuple[PixDLMConfig, PixTokenizer]:
    """The named configuration with its overrides, fitted to the tokenizer's vocabulary."""
    config = override(named_config(args.config), args.override)
    set_answer_format(config, args)
    if args.lora_rank:
        config.lora = lora_settings(args.lora_rank, args.lora_alpha, args.lora_dropout, args.lora_targets)
    tokenizer = PixTokenizer(args.tokenizer, config.system_prompt)
    if args.from_scratch:
        config.text_config.vocab_size = len(tokenizer)
    elif len(tokenizer) != config.text_config.vocab_size:
        raise UserError(
            f"{tokenizer.path}: {len(tokenizer) - len(ADDED_TOKENS)} pieces, but the configuration "
            f"has a vocabulary of {config.text_config.vocab_size - len(ADDED_TOKENS)}"
        )
    return config, tokenizer


def loss_weights(args: TrainArgs) -> LossWeights:
    """The weights of a run's losses, from the options."""
    weights = args.ce_weight, args.bce_weight, args.dice_weight, args.overlap_weight
    return LossWeights(*weights, args.grounding_weight, args.text_weight)


def enable_gradient_checkpointing(model: PixDLMForCausalLM) -> None:
    """Recompute the language model's activations in the backward pass instead of storing them."""
    model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    model.language_model.enable_input_require_grads()


def override(config: PixDLMConfig, changes: list[str]) -> PixDLMConfig:
    """A configuration with `field=value` changes, checked as a whole.

    A value is JSON; true and false may be capitalised, and a string needs no quotes. A dictionary updates the
    field's, key by key.

    Raises:
        UserError: no such field, or a value that does not fit.
    """
    fields = config.to_dict()
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in fields:
            raise UserError(f"--override {change!r}: expected field=value with a field of PixDLMConfig")
        value = read_value(text)
        if isinstance(value, dict) and isinstance(fields[name], dict):
            value = {**{key: old for key, old in fields[name].items() if key not in LLAMA_DERIVED}, **value}
        fields[name] = value
    with config_errors_as_user_error("--override"):
        return PixDLMConfig.from_dict(fields)


def read_value(text: str) -> Any:
    """The value after `field=`: JSON, or else the text itself."""
    try:
        return parse_json(text.lower() if text.lower() in ("true", "false") else text, "--override")
    except UserError:  # no JSON
        return text


def check_weight_files(args: TrainArgs) -> None:
    """Check that all weights and data exist, before anything is built.

    Raises:
        UserError: naming all that are missing and where they come from.
    """
    if args.from_scratch:
        return
    if args.fusion and not args.init_from:
        raise UserError("--fusion goes with --init-from and a published folder; leave it out")
    if args.init_from == published.PIXDLM.folder:
        published.require(["pixdlm", *options_at_default(args, "clip", "sam2")], data=drseg_folder(args))
    if args.init_from and not is_file(args.init_from):
        return
    published.require(options_at_default(args, "llava", "clip", "sam2"), data=drseg_folder(args))
    for name in ("llava", "clip", "sam2"):
        if not exists(getattr(args, name)):
            raise UserError(f"--{name} {getattr(args, name)}: no such file or folder")


def drseg_folder(args: TrainArgs) -> Path | None:
    """The folder of DRSeg, which can be downloaded; None where another data set, or several, are trained on."""
    return Path(args.data) if args.dataset == "drseg" and not args.train else None


def build_on_backbones(config: PixDLMConfig, args: TrainArgs) -> tuple[PixDLMForCausalLM, set[str]]:
    """A model with published Llama, CLIP and SAM2, and the parts that start fresh.

    The backbones are read in the run's type, with no other copy of theirs in memory; adapters are added to what was
    read.

    Raises:
        UserError: values of the configuration do not fit each other, or a file is damaged or does not fit.
    """
    lora, config.lora = config.lora, None
    model, dtype = build_model(config, empty_backbones=True), DTYPES[args.precision]
    load_llava(model.language_model, Path(args.llava), dtype)
    load_clip(model.semantic_path.clip, args.clip, config, dtype)
    load_sam2(model.pixel_path.encoder, args.sam2, dtype)
    if lora:
        with config_errors_as_user_error("--lora-targets"):
            add_lora(model.language_model, lora)
        model.config.lora = lora
    return model, {"fusion", "projector", "seg_projection", "mask_decoder"}
