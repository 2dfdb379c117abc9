"""Output folders of evaluations, made by hand: known masks, scores and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.masks import encode_mask
from utils.datasets.base import Sample
from utils.evaluation.header import FORMAT

HEIGHT, WIDTH = 90, 120
HOSTILE = "Which </script><script>document.title='taken'</script><img src=x onerror=document.title='taken'> is it?"
TYPES = ("spatial", "attribute", "scene")
# status and IoU of the first records; those that follow are good
FIRST = (("ok", 0.0), ("no_seg", 0.0), ("broken", 0.6), ("wrong_count", 0.7), ("ok", 0.25), ("ok", 1.0))


def pixels(left: int, width: int = 30) -> np.ndarray:
    """uint8[HEIGHT, WIDTH]: a rectangle 30 pixels high."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:60, left : left + width] = 1
    return mask


def make_samples(folder: Path, count: int = 12) -> dict[str, Sample]:
    """By key: records of which two share a picture, each with a target of 30 x 30 pixels at x = 40; the first is
    hostile."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = {}
    for number in range(count):
        path = folder / f"frame{number // 2}.jpg"
        if not path.exists():
            shade = np.random.default_rng(number).integers(40, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            cv2.imwrite(str(path), shade)
        question = HOSTILE if number == 0 else f"Where is vehicle {number}?"
        square = (40.0, 30.0, 70.0, 30.0, 70.0, 60.0, 40.0, 60.0)
        groups = {"reasoning_type": TYPES[number % 3], "altitude": 30 + 10 * (number % 2)}
        key = f"r{number}"
        samples[key] = Sample(
            path, question, "The annotated one.", ((square,),), HEIGHT, WIDTH, "drseg", key, number, groups, key=key
        )
    return samples


def summary(count: int, giou: float, interval: bool = True) -> dict[str, Any]:
    spans = {"giou_interval": [giou - 0.05, giou + 0.05], "ciou_interval": None} if interval else {}
    return {"count": count, "giou": giou, "ciou": giou / 2, **spans}


def make_metrics(count: int = 12, giou: float = 0.5, **changes: Any) -> dict[str, Any]:
    """What metrics.json holds."""
    scores = {
        "overall": summary(count, giou),
        "by_target_size": {"2 to 10 %": summary(count, giou)},
        "by_reasoning_type": {"spatial": summary(count // 3, giou + 0.25)},
    }
    control = {"overall": summary(count, 0.0625, False), "by_reasoning_type": {"spatial": summary(1, 0.03, False)}}
    bins = [{"low": 0.8, "high": 0.9, "count": count, "confidence": 0.85, "iou": giou},
            {"low": 0.9, "high": 1.0, "count": 0, "confidence": 0.0, "iou": 0.0}]  # fmt: skip
    return {
        **scores,
        "answers": {"records": count, "ok": max(count - 3, 0), "no_seg": 1, "broken": 1, "wrong_count": 1, "missing": 0,
                    "malformed": None},
        "calibration": {"ece": 0.125, "bins": bins},
        "controls": {"shuffled-questions": control},
        **make_header(count),
        **changes,
    }  # fmt: skip


def make_header(count: int = 12) -> dict[str, Any]:
    """What predictions.jsonl of eval.py begins with, beside its format; metrics.json repeats it."""
    return {
        "data": {"dataset": "drseg", "split": "test", "records": count, "pictures": count // 2, "skipped": [],
                 "sha256": "d" * 64, "unasked": []},
        "protocol": {"kind": "forced", "reasoning": "none", "uses_ground_truth_text": False, "decoding": None,
                     "answer_format": "seg", "controls": ["none", "shuffled-questions"], "seed": 0, "limit": None,
                     "skip_bad_records": False, "polygons": "union", "orientation": "check", "matching": "order",
                     "unit": "target", "neutral_fusion": False, "pass_size": 8, "dtype": "float32", "threads": 1,
                     "attention": "sdpa"},
        "code": "0123abcd4567-dirty",
        "versions": {"opencv": "5.0.0", "torch": "2.14.1"},
        "hardware": {"device": "cpu", "name": "A processor"},
        "checkpoint": {"model.safetensors": "c" * 64},
        "config": {"answer_format": "seg"},
    }  # fmt: skip


def write_run(folder: Path, samples: dict[str, Sample], shift: float = 0.0, **metrics: Any) -> Path:
    """An evaluation's three files, with a control's lines between; IoUs of records after FIRST grow, plus `shift`."""
    folder.mkdir(parents=True, exist_ok=True)
    scores, answers = [], [{"format": FORMAT, **make_header(len(samples))}]
    for number, (key, sample) in enumerate(samples.items()):
        status, iou = FIRST[number] if number < len(FIRST) else ("ok", 0.5 + 0.005 * number + shift)
        masks = [] if status == "no_seg" else [encode_mask(pixels(40 + number))]
        pair = {
            "id": key, "picture": sample.image_path.stem, "target": 0, "targets": 1, "record": key,
            "mask": 0 if masks else None, "merged": False,
            "iou": iou, "intersection": round(1000 * iou), "union": 1000, "area": 900, "pixels": HEIGHT * WIDTH,
            "score": 0.9 - 0.01 * number if masks else None, "status": status, "groups": dict(sample.groups),
        }  # fmt: skip
        text, written = f"answer {number} <b>bold</b>", "ok" if status == "wrong_count" else status
        answer = {"id": key, "question": sample.question, "text": text, "status": written, "masks": masks}
        scores += [pair, {**pair, "control": "shuffled-questions", "iou": 0.0}]
        answers += [
            {**answer, "scores": [0.9] * len(masks)},
            {**answer, "control": "shuffled-questions", "masks": [], "scores": []},
        ]
    (folder / "metrics.json").write_text(json.dumps(make_metrics(len(samples), **metrics)))
    for name, lines in (("scores.jsonl", scores), ("predictions.jsonl", answers)):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def forget_header(folder: Path) -> Path:
    """Make an evaluation that of someone else's predictions, as `python -m utils.evaluation.score` leaves it."""
    lines = (folder / "predictions.jsonl").read_text().splitlines()[1:]
    (folder / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("code", "versions", "hardware", "checkpoint", "config"):
        del metrics[name]
    metrics["protocol"] = {"matching": "order", "unit": "target"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
