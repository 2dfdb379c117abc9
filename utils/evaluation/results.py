"""The files of eval.py: metrics.json with the protocol, and predictions.json with a record for each mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import torch
import transformers

from model.checkpoints.backbones import Backbones, weight_hashes
from model.language.answers import SEG
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import DatasetSpec, Sample
from utils.evaluation.predict import Prediction
from utils.runtime.files import write_errors_as_user_error, write_json
from utils.runtime.machine import code_version

# Options of eval.py that the numbers depend on.
PROTOCOL_OPTIONS = ("dataset", "split", "limit", "skip_bad_records", "polygons", "orientation")
PROTOCOL_OPTIONS += ("control", "seed", "batch_size")


def protocol(
    options: dict[str, Any], spec: DatasetSpec, records: int, model: PixDLMForCausalLM, dtype: torch.dtype
) -> dict[str, Any]:
    """Everything that the scores depend on; the same for any number of processes, any paths and any time."""
    device = model.device
    return {
        "kind": "forced",  # teacher-forced
        "uses_ground_truth_text": model.config.answer_format != SEG,  # the data set's words stand in the prompts
        **{name: options[name] for name in PROTOCOL_OPTIONS},
        "records": records,
        "matching": spec.matching,
        "unit": "question" if model.config.single_target else spec.unit,
        "neutral_fusion": model.config.neutral_fusion,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": options["threads"] if device.type == "cpu" else None,
        "attention": model.language_model.config._attn_implementation,
        "code": code_version(),
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_results(
    out: Path,
    scores: dict[str, Any],
    protocol: dict[str, Any],
    model: PixDLMForCausalLM,
    checkpoint: tuple[Path, Backbones],
    predictions: list[Prediction],
    samples: dict[int, Sample],
) -> None:
    """`metrics.json` and `predictions.json`, each atomically.

    Args:
        out: the folder.
        scores: from `utils.evaluation.metrics.breakdowns`.
        protocol: from `protocol`.
        model: the evaluated one.
        checkpoint: the model folder, and the files for weights that it lacks; their sha256 is written.
        predictions: all of them.
        samples: by index.

    Raises:
        UserError: a file cannot be written.
    """
    weights = weight_hashes(checkpoint[0], model.config, checkpoint[1])
    named = {"protocol": protocol, "checkpoint": weights, "config": model.config.to_diff_dict()}
    with write_errors_as_user_error(out / "metrics.json"):
        write_json(out / "metrics.json", {**scores, **named})
    with write_errors_as_user_error(out / "predictions.json"):
        records = [prediction_record(one, samples[one.score.index]) for one in predictions]
        write_json(out / "predictions.json", records)


def prediction_record(one: Prediction, sample: Sample) -> dict[str, Any]:
    """One entry of predictions.json; `text` is the teacher-forced answer."""
    score = one.score
    return {
        "id": sample.record_id,
        "index": score.index,
        "target": score.target,
        "question": sample.question,
        "text": one.text,
        "groups": dict(score.groups),
        "iou": score.iou,
        "intersection": score.intersection,
        "union": score.union,
        "score": one.confidence,
        "segmentation": one.rle,
    }
