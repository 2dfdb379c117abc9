"""Ask about photographs: `python infer.py --model DIR PICTURE… --ask "…" --out DIR`.

For each picture: `NAME.mask.png` at the picture's size, `NAME.overlay.jpg`, and a line in
`answers.jsonl` with the generated text, box, area, run lengths and confidence, which is printed too.
"""

from __future__ import annotations

import json
import logging

import numpy as np
from tqdm import tqdm

from model.inputs.images import Picture, write_image
from model.masks import PREDICTED, paint_mask
from model.segmenter import PixDLM
from utils.cli.infer_options import parse_infer
from utils.inference.results import answer_record, distinct_names
from utils.runtime.errors import run_main
from utils.runtime.files import append_line, make_output_folder, write_errors_as_user_error
from utils.runtime.logs import start_logging

log = logging.getLogger("infer")


def main() -> None:
    args, paths = parse_infer()
    start_logging()
    out = make_output_folder(args.out)
    pixdlm = PixDLM.from_pretrained(args.model, args.device, args.precision, args.backbones)
    names = distinct_names(paths)
    for path, name in zip(tqdm(paths, desc="asking", unit="picture", leave=False), names, strict=True):
        picture = Picture(path)
        answer = pixdlm.segment(picture, args.ask, args.max_new_tokens)
        union = answer.union
        if not len(answer.masks):
            log.warning("%s: no [SEG] group in the answer, so nothing is marked; it answered %r", path, answer.text)
        elif not union.any():
            log.warning("%s: the mask is empty", path)
        entry = {**answer_record(path, args.ask, answer), "mask": f"{name}.mask.png"}
        if pixdlm.model.config.neutral_fusion:
            entry["neutral_fusion"] = True  # not the published model
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        files = {"mask.png": np.uint8(255) * union, "overlay.jpg": paint_mask(picture.pixels, union, PREDICTED)}
        for suffix, pixels in files.items():
            with write_errors_as_user_error(out / f"{name}.{suffix}"):
                write_image(out / f"{name}.{suffix}", pixels)
        with write_errors_as_user_error(out / "answers.jsonl"):
            append_line(out / "answers.jsonl", line)
        print(line)
    log.info("written to %s", out)


if __name__ == "__main__":
    run_main(main)
