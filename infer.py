"""Ask about photographs: `python infer.py --model DIR PATH… --ask "…" --out DIR`.

A PATH is a picture, a folder, a pattern, a video, or a `.jsonl` file of pictures and questions. For each answer there
are `NAME.mask.png` at the picture's size, `NAME.overlay.jpg`, and a line in `answers.jsonl` with the generated text
and for each mask box, area, confidence, run lengths and polygons; see utils/inference/README.md. Nothing is
overwritten. All lie in the picture as viewers show it, that is with its orientation tag applied. What cannot be
answered is told at the end and in `failed.jsonl`, and everything else is done: exit status 1 where some failed, 2
where all did.
"""

from __future__ import annotations

from model.language.decoding import Decoding
from model.segmenter import PixDLM
from utils.cli.infer_options import parse_infer
from utils.inference.engine import outcomes
from utils.inference.finish import Finisher, Wanted
from utils.inference.output import Output, progress, without_done
from utils.inference.reading import ReadAhead
from utils.inference.sources import askable, find_sources
from utils.runtime.errors import run_main
from utils.runtime.files import make_output_folder
from utils.runtime.logs import start_logging


def main() -> int:
    args = parse_infer()
    start_logging()
    out = None if args.folder is None else make_output_folder(args.folder)
    sources, failures = find_sources(args.pictures, args.ask)
    pixdlm = PixDLM.from_pretrained(args.model, args.device, args.precision, args.backbones, args.load_in)
    sources, unasked = askable(sources, args.ask, pixdlm.processor)
    # What is not the published model says so in every line.
    facts = {"neutral_fusion": pixdlm.model.config.neutral_fusion, "load_in": args.load_in}
    output = Output(out, args.json, args.model, facts, keeps=args.coco is not None)
    done = output.done(args.files) if args.resume else set()
    asked = sum(len(source.questions) for source in sources)
    sources = without_done(sources, done)
    output.before = asked - sum(len(source.questions) for source in sources)
    for failure in (*failures, *unasked):
        output.add(failure)
    with (
        Finisher(pixdlm.model.config, args.workers) as finisher,
        ReadAhead(sources, pixdlm.processor, 2, 2 * args.batch_size, args.every, done) as pictures,
        progress(sources, args.every) as bar,
    ):
        wanted = Wanted(args.files, args.tolerance)
        decoding = Decoding(max_new_tokens=args.max_new_tokens)
        for outcome in outcomes(pixdlm, pictures, finisher, wanted, args.batch_size, decoding):
            output.add(outcome)
            bar.update()
    return output.close(args.coco, args.tolerance)


if __name__ == "__main__":
    run_main(main)
