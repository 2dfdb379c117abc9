"""Ask about photographs: `python infer.py --model DIR PICTURE… --ask "…" --out DIR`.

For each picture: `NAME.mask.png` at the picture's size, `NAME.overlay.jpg`, and a line in
`answers.jsonl` with the generated text, box, area, run lengths and confidence, which is printed too.
"""

from __future__ import annotations

import json
import logging

import numpy as np
from tqdm import tqdm

from model.inputs.images import read_image, write_image
from model.masks import PREDICTED, paint_mask
from model.pixdlm import load_model
from model.segmenter import ask
from utils.cli.infer_options import parse_infer
from utils.inference.results import describe, distinct_names
from utils.runtime.distributed import pick_device
from utils.runtime.errors import run_main
from utils.runtime.files import append_line, make_output_folder, write_errors_as_user_error
from utils.runtime.logs import start_logging
from utils.runtime.precision import inference_dtype

log = logging.getLogger("infer")


def main() -> None:
    args, pictures = parse_infer()
    start_logging()
    out = make_output_folder(args.out)
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
        for suffix, painted in {"mask.png": union * 255, "overlay.jpg": paint_mask(image, union, PREDICTED)}.items():
            with write_errors_as_user_error(out / f"{name}.{suffix}"):
                write_image(out / f"{name}.{suffix}", painted)
        with write_errors_as_user_error(out / "answers.jsonl"):
            append_line(out / "answers.jsonl", line)
        print(line)
    log.info("written to %s", out)


if __name__ == "__main__":
    run_main(main)
