"""Ask about photographs: `python infer.py --model DIR PICTURE… --ask "…" --out DIR`.

For each picture: `NAME.mask.png` at the picture's size, `NAME.overlay.jpg`, and a line in
`answers.jsonl` with the generated text, box, area, run lengths and confidence, which is printed too.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco
from tqdm import tqdm

from model.checkpoints.export import told_of_full_disks
from model.checkpoints.save import load_model
from model.inputs.images import frame_logits, read_image
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.cli.options import inference_dtype, parse_infer
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.evaluation.predict import confidence, encode_mask
from utils.evaluation.report.overlays import PREDICTED, paint, write_picture
from utils.runtime.distributed import pick_device
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import append_line, results_folder
from utils.runtime.logs import start_logging

log = logging.getLogger("infer")


def main() -> None:
    args, pictures = parse_infer()
    start_logging()
    out = results_folder(args.out)
    device = pick_device(args.device)
    dtype = inference_dtype(args.precision, device)
    model, tokenizer = load_model(args.model, device, dtype, args.backbones)
    names = distinct_names(pictures)
    for picture, name in zip(tqdm(pictures, desc="asking", unit="picture", leave=False), names, strict=True):
        image = read_image(picture)
        text, logits = ask(model, tokenizer, picture, args.ask, args.max_new_tokens, dtype)
        union = (logits > 0).any(dim=0).cpu().numpy().astype(np.uint8)
        if not len(logits):
            log.warning("%s: no [SEG] group in the answer, so nothing is marked; it answered %r", picture, text)
        elif not union.any():
            log.warning("%s: the mask is empty", picture)
        entry = {**describe(picture, args.ask, text, logits, union), "mask": f"{name}.mask.png"}
        if model.config.neutral_fusion:
            entry["neutral_fusion"] = True  # not the published model
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        for suffix, painted in {"mask.png": union * 255, "overlay.jpg": paint(image, union, PREDICTED)}.items():
            with told_of_full_disks(out / f"{name}.{suffix}"):
                write_picture(out / f"{name}.{suffix}", painted)
        with told_of_full_disks(out / "answers.jsonl"):
            append_line(out / "answers.jsonl", line)
        print(line)
    log.info("written to %s", out)


@torch.inference_mode()
def ask(
    model: PixDLMForCausalLM, tokenizer: PixTokenizer, picture: Path, question: str, limit: int, dtype: torch.dtype
) -> tuple[str, torch.Tensor]:
    """Let the model write its answer, then read the mask of every whole [SEG] group in it.

    Returns:
        the text, and logits float[K, H, W] in the picture's geometry; K is 0 without a [SEG] group

    Raises:
        UserError: the picture or the question cannot be used, or a logit is not finite.
    """
    sample = Sample(picture, question, None, (), 1, 1, None, None, "infer", picture.name, 0)
    batch = Collator(model.config, tokenizer, answered=False)([sample]).to(model.device, dtype)
    seen = model.see(batch)  # once: the forced answer needs the picture again
    (written,) = model.generate_answers(batch, limit, seen)
    groups = tokenizer.seg_groups(written)
    if not groups:
        geometry = batch.geometries[0]
        return tokenizer.decode(written), torch.zeros(0, geometry.height, geometry.width)
    ids = torch.cat([batch.input_ids, torch.tensor([whole_groups(tokenizer, written)], device=model.device)], dim=1)
    forced = replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool))
    (logits,) = model(forced, seen=seen).mask_logits
    if not torch.isfinite(logits).all():
        raise UserError(f"{picture}: the mask's logits are not finite; use --precision fp32")
    return tokenizer.decode(written), frame_logits(logits.float(), batch.geometries[0], model.config)


def whole_groups(tokenizer: PixTokenizer, written: list[int]) -> list[int]:
    """An answer as it can be forced: up to its last whole [SEG] group, without [SEG] tokens of broken ones."""
    groups = tokenizer.seg_groups(written)
    whole = {position for group in groups for position in group}
    return [token for i, token in enumerate(written[: max(whole) + 1]) if i in whole or token not in tokenizer.seg_ids]


def describe(picture: Path, question: str, text: str, logits: torch.Tensor, union: np.ndarray) -> dict:
    """The JSON line of one picture; boxes are [x, y, width, height] in pixels."""
    masks = []
    for one in logits:
        rle = encode_mask((one > 0).cpu().numpy())
        masks.append({"box": box_of(rle), "area": int(coco.area(rle)), "confidence": confidence(one), "rle": rle})
    rle = encode_mask(union)
    return {
        "picture": str(picture),
        "question": question,
        "text": text,
        "box": box_of(rle),
        "area": int(union.sum()),
        "area_fraction": float(union.mean()),
        "confidence": confidence(logits.amax(dim=0)) if len(logits) else 0.0,
        "rle": rle,
        "masks": masks,
    }


def box_of(rle: dict) -> list[float] | None:
    """[x, y, width, height] of a mask, None where it is empty."""
    return [float(v) for v in coco.toBbox(rle)] if coco.area(rle) else None


def distinct_names(pictures: list[Path]) -> list[str]:
    """A file name for each picture's results: its stem, numbered where several share one."""
    names: list[str] = []
    for picture in pictures:
        name, number = picture.stem, 2
        while name in names:
            name, number = f"{picture.stem}-{number}", number + 1
        names.append(name)
    return names


if __name__ == "__main__":
    run_main(main)
