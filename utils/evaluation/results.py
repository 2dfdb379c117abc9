"""What eval.py writes: the protocol, and a record for each predicted mask."""

from __future__ import annotations

import math

import cv2
import torch
import transformers

from model.pixdlm import PixDLMForCausalLM
from utils.cli.eval_options import EvalArgs
from utils.datasets.base import Sample
from utils.evaluation.predict import Prediction
from utils.runtime.errors import UserError


def protocol(args: EvalArgs, samples: list[Sample], model: PixDLMForCausalLM, dtype: torch.dtype) -> dict:
    """What the numbers depend on; nothing in it depends on the number of processes, on paths or on time."""
    device = model.device
    return {
        "kind": "forced",
        "dataset": args.dataset,
        "split": args.split,
        "records": len(samples),
        "limit": args.limit,
        "skip_bad_records": args.skip_bad_records,
        "polygons": args.polygons,
        "shuffle_questions": args.shuffle_questions,
        "swap_image_tokens": args.swap_image_tokens,
        "neutral_fusion": model.config.neutral_fusion,
        "batch_size": args.batch_size,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": args.threads if device.type == "cpu" else None,
        "attention": model.language_model.config._attn_implementation,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def check_finite(args: EvalArgs, samples: list[Sample], predictions: list[Prediction]) -> None:
    """A mask that is computed from numbers that are none would count as an empty one.

    Raises:
        UserError: naming the first such record.
    """
    names = {sample.index: sample.record_id for sample in samples}
    broken = [names[one.score.index] for one in predictions if not math.isfinite(one.confidence)]
    if broken:
        raise UserError(
            f"{args.model}: {len(broken)} of {len(predictions)} masks are not finite, the first that of record "
            f"{broken[0]!r}; evaluate with --precision fp32, or train anew if that does not help"
        )


def record(one: Prediction, sample: Sample) -> dict:
    """One entry of predictions.json; `text` is the answer that was forced."""
    score = one.score
    return {
        "id": sample.record_id,
        "index": score.index,
        "target": score.target,
        "question": sample.question,
        "text": one.text,
        "reasoning_type": score.reasoning_type,
        "altitude": score.altitude,
        "iou": score.iou,
        "intersection": score.intersection,
        "union": score.union,
        "score": one.confidence,
        "segmentation": one.rle,
    }
