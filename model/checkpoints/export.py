"""Export to folders that load without other files: in this project's layout and in the published one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from model.checkpoints.backbones import FUSION_FILE
from model.checkpoints.layouts import ARCHITECTURE_KEY, CONFIG_FILE, PUBLISHED_CLASS, TRAINING_FILE
from model.checkpoints.save import write_training, write_weights
from model.checkpoints.tensor_names import PUBLISHED_TRAINING, select_prefix, to_published_name
from model.checkpoints.tensors import TensorFile
from model.config import PixDLMConfig
from model.language.tokens import BOS_ID, EOS_ID, PAD_ID, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.processor import PixDLMProcessor
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_folder, check_utf8_path, write_errors_as_user_error
from utils.runtime.paths import exists, has_content, is_file, is_folder, through_links

METRIC_TITLES = {"giou": "gIoU", "ciou": "cIoU"}
BACKBONES = ("semantic_path.", "pixel_path.")


def check_target(out: Path, source: Path, overwrite: bool, size: int = 0) -> None:
    """Refuse a target before anything is read or written.

    Args:
        out: the file or folder to write.
        source: the checkpoint that is read.
        overwrite: whether the target may exist.
        size: bytes that will be written, where they are known.

    Raises:
        UserError: its name is not UTF-8, it exists (an empty folder may), holds something other than a model or
            overlaps the source, or its disk is too full.
    """
    check_utf8_path(out)
    out, source = through_links(out).resolve(), source.resolve()
    if out == source or out in source.parents or source in out.parents:
        raise UserError(f"{out}: is, holds or lies in the checkpoint {source}; name another target")
    if has_content(out) and not overwrite:
        raise UserError(f"{out}: exists already; name another target or pass --overwrite")
    if is_folder(out) and has_content(out) and not is_file(out / CONFIG_FILE):
        raise UserError(f"{out}: is a folder without {CONFIG_FILE}, so no model, and is not overwritten")
    if exists(out) and not is_folder(out) and not holds_tensors(out):
        raise UserError(f"{out}: is a file without tensors, so no parts, and is not overwritten")
    disk = next(path for path in (out, *out.parents) if exists(path))
    free = shutil.disk_usage(disk).free
    if free < size:
        raise UserError(f"{out}: needs {size / 2**30:.2f} GiB, {disk} has {free / 2**30:.2f} GiB free; make room")


def holds_tensors(file: Path) -> bool:
    """Whether a file is one of tensors, such as those of extract.py."""
    try:
        return bool(len(TensorFile(file)))
    except UserError:
        return False


def save_own(
    out: Path, model: PixDLMForCausalLM, tokenizer: PixTokenizer, training: dict[str, Any], without_backbones: bool
) -> None:
    """Write this project's layout: safetensors shards with their index, and the companion files.

    Args:
        out: replaced when it exists.
        model: without adapters.
        tokenizer: its file is copied.
        training: settings and scores of the run, for the card.
        without_backbones: leave CLIP and SAM2 out, as published.
    """
    state = model.state_dict()
    if without_backbones:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(BACKBONES)}
    with write_errors_as_user_error(out), atomic_folder(out) as beside:
        write_weights(beside, model.config, state)
        save_companion_files(beside, model.config, tokenizer, training, card(model, training, without_backbones))


def save_published(out: Path, model: PixDLMForCausalLM, tokenizer: PixTokenizer, training: dict[str, Any]) -> None:
    """Write the published layout and names: `pytorch_model.bin` without backbones, and these in separate files.

    CLIP is written as a transformers folder `clip/`, SAM2's encoder as `sam2.pt`, the fusion as
    `align_stages.bin`, where `model.checkpoints.load` finds them.
    """
    state = model.state_dict()
    merged = {to_published_name(n): t for n, t in state.items() if not n.startswith((*BACKBONES, "fusion."))}
    config = model.config
    with write_errors_as_user_error(out), atomic_folder(out) as beside:
        torch.save(merged, beside / "pytorch_model.bin")
        torch.save(published_fusion(state), beside / FUSION_FILE)
        clip = {f"vision_model.{n}": t.contiguous() for n, t in select_prefix(state, "semantic_path.clip.").items()}
        (beside / "clip").mkdir()
        save_file(clip, beside / "clip" / "model.safetensors", metadata={"format": "pt"})
        config.vision_config.save_pretrained(beside / "clip")
        sam2 = {f"image_encoder.{n}": t for n, t in select_prefix(state, "pixel_path.encoder.").items()}
        torch.save({"model": sam2}, beside / "sam2.pt")
        (beside / CONFIG_FILE).write_text(json.dumps(published_fields(config), indent=2, default=str) + "\n")
        save_companion_files(beside, config, tokenizer, training, card(model, training, False))


def published_fields(config: PixDLMConfig) -> dict[str, Any]:
    """The fields of a published `config.json` (LLaVA's: the Llama's own fields), and the whole architecture
    under ARCHITECTURE_KEY."""
    llama = {name: value for name, value in config.text_config.to_dict().items() if name != "rope_parameters"}
    named = {"architectures": [PUBLISHED_CLASS], "model_type": "llava"}
    clip = {"mm_hidden_size": config.vision_config.hidden_size, "mm_use_im_start_end": True}
    rope = {"rope_theta": config.text_config.rope_parameters["rope_theta"], "rope_scaling": None}
    return {**llama, **rope, **clip, **named, ARCHITECTURE_KEY: config.to_dict()}


def published_fusion(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The `align_stages` dictionary of the published training code."""
    return {PUBLISHED_TRAINING + to_published_name(n): t for n, t in state.items() if n.startswith("fusion.")}


def save_companion_files(
    folder: Path, config: PixDLMConfig, tokenizer: PixTokenizer, training: dict[str, Any], card: str
) -> None:
    """Write tokenizer, processor, generation settings, the run's record and the model card."""
    PixDLMProcessor(config, tokenizer).save_pretrained(folder)
    GenerationConfig(
        max_new_tokens=64, do_sample=False, pad_token_id=PAD_ID, bos_token_id=BOS_ID, eos_token_id=EOS_ID
    ).save_pretrained(folder)
    if training:
        write_training(folder, training)
    (folder / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")


def card(model: PixDLMForCausalLM, training: dict[str, Any], without_backbones: bool) -> str:
    """The model card, Markdown: the model, its validation scores and its training settings.

    Raises:
        UserError: `training` is not as train.py writes it.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        "---", "license: apache-2.0", "pipeline_tag: image-segmentation", "tags: [pixdlm, reasoning-segmentation]",
        "---", "", "# PixDLM", "",
        f"Reasoning segmentation of drone photographs, {count:,} parameters. The architecture is in `config.json`.",
    ]  # fmt: skip
    if without_backbones:
        lines.append("CLIP and SAM2 are not in it; their files are named when it is loaded.")
    if model.config.neutral_fusion:
        lines += ["", "**Its fusion is neutral, for want of published weights: this is not the published model.**"]
    try:
        lines += training_lines(training)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{TRAINING_FILE}: its scores or settings are not as train.py writes them ({type(error).__name__}: "
            f"{error}); mend it or take it away"
        ) from error
    return "\n".join(lines) + "\n"


def training_lines(training: dict[str, Any]) -> list[str]:
    """The lines of a model card about scores and settings of the run, and about an evaluation of it."""
    lines: list[str] = []
    title, scores, facts = "Scores on the validation split", training.get("validation"), training.get("validated")
    validations = [(title, scores, facts)]
    if scores and "overall" not in scores:  # of a mixture, by data set
        validations = [(f"{title} of {name}", scores[name], (facts or {}).get(name)) for name in scores]
    for title, scores, facts in (*validations, ("Evaluation", *[training.get("evaluation")] * 2)):
        if scores:
            lines += ["", f"## {title}", "", *score_lines(scores)]
            lines += ["", *fact_lines(facts)] if facts else []
    if training.get("settings"):
        lines += ["", "## Training", "", f"Epoch {training.get('epoch')}, step {training.get('step')}, with"]
        lines += ["", *(f"    {name}: {value}" for name, value in training["settings"].items())]
    return lines


def score_lines(scores: dict[str, Any]) -> list[str]:
    """A table of the metrics, with 95 % intervals where there are some, and of the first one under controls."""
    metrics = [name for name in scores["overall"] if name != "count" and not name.endswith("_interval")]
    controls = scores.get("controls", {})
    titles = [METRIC_TITLES.get(name, name) for name in metrics] + [one.replace("-", " ") for one in controls]
    lines = [f"| | count | {' | '.join(titles)} |", "| --- " * (2 + len(titles)) + "|"]

    def interval(ends: list[float] | None) -> str:
        return f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""

    def row(name: str, found: dict[str, Any], under: list[dict[str, Any] | None]) -> str:
        cells = [f"{found[one]:.3f}{interval(found.get(f'{one}_interval'))}" for one in metrics]
        cells += [f"{one[metrics[0]]:.3f}" if one else "" for one in under]
        return f"| {name} | {found['count']} | {' | '.join(cells)} |"

    lines.append(row("overall", scores["overall"], [one["overall"] for one in controls.values()]))
    for name, found in scores.get("by_reasoning_type", {}).items():
        lines.append(row(name, found, [one["by_reasoning_type"].get(name) for one in controls.values()]))
    return lines


def fact_lines(facts: dict[str, Any]) -> list[str]:
    """What scores are of: data, protocol, decoding, code, checkpoint and hardware."""
    data, protocol, hardware = facts["data"], facts["protocol"], facts["hardware"]
    asked = f"{protocol['kind']}, reasoning {protocol['reasoning']}"
    if protocol["uses_ground_truth_text"]:
        asked += " (the data set's answers are input)"
    said = protocol["decoding"] and ", ".join(f"{name} {value}" for name, value in protocol["decoding"].items())
    named = {
        "data": f"{data['dataset']} {data['split']}, {data['records']} records about {data['pictures']} pictures, "
        f"sha256 `{data['sha256']}`",
        "protocol": asked,
        "decoding": said or "none, nothing is written",
        "code": facts["code"] or "unknown version",
        "checkpoint": ", ".join(f"`{name}` sha256 `{sha}`" for name, sha in facts.get("checkpoint", {}).items()),
        "hardware": f"{hardware['name']} ({hardware['device']})",
    }
    return [f"- {name}: {value}" for name, value in named.items() if value]
