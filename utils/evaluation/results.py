"""The files of an evaluation beside predictions.jsonl: metrics.json and scores.jsonl; and what they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
import transformers

from model.checkpoints.backbones import Backbones, weight_hashes
from model.pixdlm import PixDLMForCausalLM
from model.quantization import BITSANDBYTES
from utils.datasets.base import DatasetSpec, Sample
from utils.evaluation.header import FORMAT
from utils.evaluation.protocols import Protocol
from utils.runtime.files import atomic_file, write_errors_as_user_error, write_json
from utils.runtime.machine import code_version, cpu_model, package_version

# Options of eval.py that the numbers depend on, or that say how the data set is read.
READING_OPTIONS = ("limit", "skip_bad_records", "polygons", "orientation")


def data_facts(dataset: str, split: str, samples: Sequence[Sample], skipped: Sequence[str] = ()) -> dict[str, Any]:
    """What an evaluation is of: data set, split, numbers, what was left out, and a hash of questions and targets.

    The hash does not depend on paths, nor on how labels are laid out; the pictures' pixels are not in it.
    """
    sha = hashlib.sha256()
    for sample in samples:
        known = sample.key, sample.question, sample.targets, sample.ignore, sample.height, sample.width, sample.size
        sha.update(json.dumps(known).encode())
    return {
        "dataset": dataset,
        "split": split,
        "records": len(samples),
        "pictures": len({sample.image_path for sample in samples}),
        "skipped": list(skipped),
        "sha256": sha.hexdigest(),
    }


@dataclass(frozen=True)
class RunFacts:
    """All that an evaluation's answers depend on.

    Args:
        options: of eval.py.
        protocol: how the model is asked.
        spec: of the data set.
        data: from `data_facts`.
        model: the evaluated one.
        folder: of the model.
        backbones: files for weights that the folder lacks.
        dtype: of weights and pixels.
    """

    options: dict[str, Any]
    protocol: Protocol
    spec: DatasetSpec
    data: dict[str, Any]
    model: PixDLMForCausalLM
    folder: Path
    backbones: Backbones
    dtype: torch.dtype


def run_header(facts: RunFacts) -> dict[str, Any]:
    """The header of predictions.jsonl: the facts in JSON, of weights their sha256; the same for any number of
    processes, any paths and any time."""
    options, protocol, spec, model = facts.options, facts.protocol, facts.spec, facts.model
    device = model.device
    return {
        "format": FORMAT,
        "data": facts.data,
        "protocol": {
            **protocol.described(),
            "answer_format": model.config.answer_format,
            "controls": list(protocol.controls),
            "seed": protocol.seed,
            **{name: options[name] for name in READING_OPTIONS},
            "matching": spec.matching,
            "unit": "question" if model.config.single_target else spec.unit,
            "neutral_fusion": model.config.neutral_fusion,
            "pass_size": options["pass_size"],
            "dtype": str(facts.dtype).removeprefix("torch."),
            "load_in": model.load_in,
            "threads": options["threads"] if device.type == "cpu" else None,
            "attention": model.language_model.config._attn_implementation,
        },
        "code": code_version(),
        "versions": versions(model.load_in),
        "hardware": hardware(device),
        "checkpoint": weight_hashes(facts.folder, model.config, facts.backbones),
        "config": model.config.to_diff_dict(),
    }


def versions(load_in: str | None) -> dict[str, str | None]:
    """Versions of the packages that the answers depend on."""
    found = {"opencv": cv2.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "bitsandbytes": package_version("bitsandbytes")} if load_in in BITSANDBYTES else found


def hardware(device: torch.device) -> dict[str, str]:
    """What an evaluation ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    return {"device": device.type, "name": name}


def write_results(out: Path, metrics: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """metrics.json and scores.jsonl, each atomically; what UTF-8 cannot write stands in them as JSON's escapes.

    Raises:
        UserError: a file cannot be written.
    """
    with write_errors_as_user_error(out / "metrics.json"):
        write_json(out / "metrics.json", metrics)
    with write_errors_as_user_error(out / "scores.jsonl"), atomic_file(out / "scores.jsonl") as beside:
        write_lines(beside, (json.dumps(line, ensure_ascii=False) for line in lines))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Lines of JSON; bytes of a name that are no UTF-8 are written as JSON's escapes, as `write_json` does."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
