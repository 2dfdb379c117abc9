"""Evaluate a checkpoint, teacher-forced: `python eval.py --model DIR --data DIR --split test --out DIR`.

Prints the table; writes metrics.json, predictions.json and, with --overlays N, pictures. The numbers
are the same on any number of processes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from model.checkpoints.load import load_tokenizer
from model.language.answers import SEG
from model.pixdlm import load_model
from model.processor import PixDLMProcessor
from utils.cli.eval_options import parse_eval
from utils.datasets.questions import check_questions
from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.controls import SHUFFLED_QUESTIONS, controlled_model, controlled_samples
from utils.evaluation.metrics import breakdowns
from utils.evaluation.predict import check_finite, evaluate
from utils.evaluation.report.overlays import check_own_overlays, draw_overlays
from utils.evaluation.report.tables import table
from utils.evaluation.results import protocol, write_results
from utils.runtime.distributed import pick_device, process_group, world_size
from utils.runtime.errors import run_main
from utils.runtime.files import exclusive_lock, make_output_folder, write_errors_as_user_error
from utils.runtime.logs import peak_memory_gib, start_logging
from utils.runtime.precision import inference_dtype
from utils.training.zero3 import load_sharded

log = logging.getLogger("eval")


def main() -> None:
    args = parse_eval()
    start_logging()
    out = make_output_folder(args.out)
    check_own_overlays(out / "overlays")
    device = pick_device(args.device)
    dtype = inference_dtype(args.precision, device)
    # The order of summation in a matrix product depends on the number of threads, which a launcher derives
    # from the number of processes; a fixed number keeps the last digits the same.
    torch.set_num_threads(args.threads)
    with process_group(device):
        spec = dataset_spec(args.dataset)
        reading = args.dataset, args.polygons, args.skip_bad_records, args.orientation
        samples = load_dataset(args.data, args.split, *reading)
        tokenizer, config = load_tokenizer(Path(args.model))
        processor = PixDLMProcessor(config, tokenizer)
        said = config.answer_format
        samples = check_questions(samples, processor, args.skip_bad_records, answer_format=said)[: args.limit]
        samples = controlled_samples(samples, args.control, args.seed, args.batch_size)
        if args.control == SHUFFLED_QUESTIONS:  # which may have met records with more targets than their own
            check_questions(samples, processor, answer_format=said)
        load = partial(load_model, args.model, dtype=dtype, backbones=args.backbones)
        if args.shard:
            model, tokenizer, runner = load_sharded(load, device, dtype, args.offload)  # loads on the CPU
        else:
            model, tokenizer, runner = *load(device=device), None
        started = time.perf_counter()
        with controlled_model(model, args.control):
            title = f"evaluating {args.split}"
            predictions = evaluate(model, tokenizer, samples, args.batch_size, args.workers, dtype, title, runner)
        if predictions is None:  # not on rank 0
            return
        seconds = time.perf_counter() - started
        log.info(
            "%d records in %.1f s (%.1f a second) on %d processes; at most %.2f GiB in this one",
            *(len(samples), seconds, len(samples) / seconds, world_size(), peak_memory_gib()),
        )
        check_finite(args.model, samples, predictions)
        scores = breakdowns([one.score for one in predictions], spec)
        if said != SEG:
            print(
                "the data set's answers, which are ground truth, stand in the prompts: compare with such numbers alone"
            )
        print(table(scores, spec), flush=True)  # before anything is written: a full disk does not cost the work
        if model.config.neutral_fusion:
            print("neutral fusion: CLIP alone reaches the language model, so this is not the published model")
        by_index = {sample.index: sample for sample in samples}
        rules = protocol(asdict(args), spec, len(samples), model, dtype)
        # of two evaluations into one folder all that is there is of one of them
        with write_errors_as_user_error(out), exclusive_lock(out / ".results.lock", wait=True):
            write_results(out, scores, rules, model, (Path(args.model), args.backbones), predictions, by_index)
            draw_overlays(out / "overlays", args.overlays, by_index, predictions, model.config.single_target)
    log.info("written to %s", out)


if __name__ == "__main__":
    run_main(main)
