"""Evaluate a checkpoint with the answer forced: `python eval.py --model DIR --data DIR --split test --out DIR`.

Prints the table; writes metrics.json, predictions.json and, with --overlays N, pictures. The numbers
are the same on any number of processes.
"""

from __future__ import annotations

import logging
import math
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers
from pycocotools import mask as coco

from model.checkpoints.export import told_of_full_disks
from model.checkpoints.save import load_model
from model.inputs.images import read_image
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.cli.options import EvalArgs, inference_dtype, parse_eval
from utils.datasets import load_dataset
from utils.datasets.base import Sample, target_masks
from utils.evaluation.metrics import breakdowns
from utils.evaluation.predict import (
    Prediction,
    check_other_pictures,
    evaluate,
    shuffle_questions,
    swapped_image_tokens,
)
from utils.evaluation.report.overlays import side_by_side, table, write_json, write_picture
from utils.runtime.distributed import pick_device, process_group, world
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import results_folder, write_beside
from utils.runtime.logs import peak_memory_gib, start_logging
from utils.training.zero3 import load_sharded

log = logging.getLogger("eval")


def main() -> None:
    args = parse_eval()
    start_logging()
    out = results_folder(args.out)
    device = pick_device(args.device)
    dtype = inference_dtype(args.precision, device)
    # Sums in a matrix product are cut up by the number of threads, which a launcher sets by the number
    # of processes; left to it, the last digits would follow.
    torch.set_num_threads(args.threads)
    with process_group(device):
        samples = load_dataset(args.data, args.split, args.dataset, args.polygons, args.skip_bad_records)[: args.limit]
        if args.shuffle_questions is not None:
            samples = shuffle_questions(samples, args.shuffle_questions)
        if args.swap_image_tokens:
            check_other_pictures(samples, args.batch_size)
        model, tokenizer, runner = load(args, device, dtype)
        started = time.perf_counter()
        with swapped_image_tokens(model) if args.swap_image_tokens else nullcontext():
            title = f"evaluating {args.split}"
            predictions = evaluate(model, tokenizer, samples, args.batch_size, args.workers, dtype, title, runner)
        if predictions is None:  # not on rank 0
            return
        seconds = time.perf_counter() - started
        log.info(
            "%d records in %.1f s (%.1f a second) on %d processes; at most %.2f GiB in this one",
            *(len(samples), seconds, len(samples) / seconds, world(), peak_memory_gib()),
        )
        check_finite(args, samples, predictions)
        scores = breakdowns([one.score for one in predictions])
        print(table(scores), flush=True)  # before anything is written: a full disk does not cost the work
        if model.config.neutral_fusion:
            print("neutral fusion: CLIP alone reaches the language model, so this is not the published model")
        named = {"protocol": protocol(args, samples, model, dtype), "config": model.config.to_diff_dict()}
        by_index = {sample.index: sample for sample in samples}
        with told_of_full_disks(out / "metrics.json"):
            write_json(out / "metrics.json", {**scores, **named})
        with told_of_full_disks(out / "predictions.json"):
            write_json(out / "predictions.json", [record(one, by_index[one.score.index]) for one in predictions])
        if args.overlays:
            with told_of_full_disks(out / "overlays"):
                draw(out / "overlays", args.overlays, by_index, predictions, model.config.single_target)
    log.info("written to %s", out)


def load(args: EvalArgs, device: torch.device, dtype: torch.dtype) -> tuple[PixDLMForCausalLM, PixTokenizer, Any]:
    """Model and tokenizer, and with --shard the engine that runs the model."""
    if not args.shard:
        return (*load_model(args.model, device, dtype, args.backbones), None)
    return load_sharded(lambda: load_model(args.model, "cpu", dtype, args.backbones), device, dtype, args.offload)


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


def draw(folder: Path, count: int, samples: dict[int, Sample], predictions: list[Prediction], merged: bool) -> None:
    """`count` pictures, spread evenly over the split; those of an earlier evaluation are replaced."""
    with write_beside(folder) as beside:
        for place in np.linspace(0, len(predictions) - 1, min(count, len(predictions))).round().astype(int):
            one = predictions[place]
            sample = samples[one.score.index]
            image = read_image(sample.image_path)
            truth = target_masks(sample, *image.shape[:2], merge=merged)[one.score.target]
            picture = side_by_side(image, coco.decode(one.rle), truth, f"{sample.question}   IoU {one.score.iou:.2f}")
            name = re.sub(r"[^\w.-]", "_", sample.record_id)
            write_picture(beside / f"{one.score.index:05d}_{one.score.target}_{name}.jpg", picture)


if __name__ == "__main__":
    run_main(main)
