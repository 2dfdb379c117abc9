"""Ask about photographs: `python infer.py --model DIR PICTURE… --ask "…" --out DIR`.

For each picture: `NAME.mask.png` at the picture's size, `NAME.overlay.jpg`, and a line in
`answers.jsonl` with the generated text, box, area, run lengths and confidence, which is printed too.
NAME is the picture's, numbered where the folder has such results already: nothing is overwritten. All of them lie
in the picture as viewers show it, that is with its orientation tag applied.
"""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from model.inputs.images import Picture
from model.segmenter import PixDLM
from utils.cli.infer_options import parse_infer
from utils.inference.results import ANSWERS, answer_record, json_line, named_masks, write_answer
from utils.runtime.errors import run_main
from utils.runtime.files import make_output_folder
from utils.runtime.logs import start_logging

log = logging.getLogger("infer")


def main() -> None:
    args, paths = parse_infer()
    start_logging()
    out = make_output_folder(args.out)
    taken = named_masks(out / ANSWERS)
    pixdlm = PixDLM.from_pretrained(args.model, args.device, args.precision, args.backbones)
    pixdlm.processor.text([args.ask], [0], [], None, ["--ask"])  # what cannot be asked is told before pictures are read
    for path in tqdm(paths, desc="asking", unit="picture", leave=False):
        picture = Picture(path)
        answer = pixdlm.segment(picture, args.ask, args.max_new_tokens)
        union = answer.union
        if answer.no_target:
            log.warning("%s: nothing in it answers the question, says the model, in the words %r", path, answer.text)
        elif not len(answer.masks):
            log.warning("%s: no whole [SEG] group, so nothing is marked; it answered %r", path, answer.text)
        elif not union.any():
            log.warning("%s: the mask is empty", path)
        entry = answer_record(path, args.ask, answer)
        if pixdlm.model.config.neutral_fusion:
            entry["neutral_fusion"] = True  # not the published model
        print(json_line(write_answer(out, picture, entry, union, taken), sys.stdout.encoding))
    log.info("written to %s", out)


if __name__ == "__main__":
    run_main(main)
