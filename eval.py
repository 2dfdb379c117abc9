"""Evaluate a checkpoint with the answer forced: `python eval.py --model DIR --data DIR --split test --out DIR`.

Prints the table; writes metrics.json, predictions.json and, with --overlays N, pictures. The numbers
are the same on any number of processes.
"""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as coco

from utils.args import EvalArgs, at_least, inference_dtype, parse
from utils.checkpoint import load_model
from utils.datasets import load_dataset
from utils.datasets.base import Sample, target_masks
from utils.distributed import pick_device, process_group
from utils.errors import run_main
from utils.evaluation import Prediction, evaluate, shuffle_questions
from utils.images import read_image
from utils.logs import start_logging
from utils.metrics import breakdowns
from utils.report import side_by_side, table, write_json, write_picture

log = logging.getLogger("eval")


def main() -> None:
    args = parse(EvalArgs)
    start_logging()
    at_least(args, 1, "batch_size")
    at_least(args, 0, "workers", "overlays")
    if args.limit is not None:
        at_least(args, 1, "limit")
    device = pick_device(args.device)
    dtype = inference_dtype(args.precision, device)
    with process_group(device):
        samples = load_dataset(args.data, args.split, args.dataset, args.polygons, args.skip_bad_records)[: args.limit]
        if args.shuffle_questions is not None:
            samples = shuffle_questions(samples, args.shuffle_questions)
        model, tokenizer = load_model(args.model, device, dtype)
        predictions = evaluate(
            model, tokenizer, samples, args.batch_size, args.workers, dtype, title=f"evaluating {args.split}"
        )
        if predictions is not None:
            merged = model.config.single_target
            report(args, samples, predictions, model.config.to_diff_dict(), str(dtype), merged)


def report(
    args: EvalArgs, samples: list[Sample], predictions: list[Prediction], config: dict, dtype: str, merged: bool
) -> None:
    """Table to the terminal, files to --out. Nothing in metrics.json depends on the number of processes."""
    out = Path(args.out)
    scores = breakdowns([one.score for one in predictions])
    protocol = {
        "kind": "forced",
        "dataset": args.dataset,
        "split": args.split,
        "polygons": args.polygons,
        "shuffle_questions": args.shuffle_questions,
        "limit": args.limit,
        "batch_size": args.batch_size,
        "dtype": dtype.removeprefix("torch."),
        "opencv": cv2.__version__,
        "torch": torch.__version__,
    }
    write_json(out / "metrics.json", {**scores, "protocol": protocol, "config": config})
    by_index = {sample.index: sample for sample in samples}
    write_json(out / "predictions.json", [record(one, by_index[one.score.index]) for one in predictions])
    draw(args, out / "overlays", by_index, predictions, merged)
    print(table(scores))
    log.info("written to %s", out)


def record(one: Prediction, sample: Sample) -> dict:
    """One entry of predictions.json."""
    return {
        "id": sample.record_id,
        "index": one.score.index,
        "target": one.score.target,
        "question": sample.question,
        "text": one.text,
        "iou": one.score.iou,
        "intersection": one.score.intersection,
        "union": one.score.union,
        "confidence": one.confidence,
        "segmentation": one.rle,
    }


def draw(
    args: EvalArgs, folder: Path, samples: dict[int, Sample], predictions: list[Prediction], merged: bool
) -> None:
    """--overlays pictures, spread evenly over the split."""
    count = min(args.overlays, len(predictions))
    for place in np.linspace(0, len(predictions) - 1, count).round().astype(int) if count else []:
        one = predictions[place]
        sample = samples[one.score.index]
        image = read_image(sample.image_path)
        truth = target_masks(sample, *image.shape[:2], merge=merged)[one.score.target]
        caption = f"{sample.question}   IoU {one.score.iou:.2f}"
        picture = side_by_side(image, coco.decode(one.rle), truth, caption)
        write_picture(folder / f"{one.score.index:05d}_{one.score.target}_{sample.record_id}.jpg", picture)


if __name__ == "__main__":
    run_main(main)
