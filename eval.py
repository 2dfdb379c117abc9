"""Evaluate a checkpoint with the answer forced: `python eval.py --model DIR --data DIR --split test --out DIR`.

Prints the table; writes metrics.json, predictions.json and, with --overlays N, pictures. The numbers
are the same on any number of processes.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import Any

import torch

from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM, load_model
from utils.cli.eval_options import EvalArgs, parse_eval
from utils.datasets import load_dataset
from utils.evaluation.controls import check_other_pictures, shuffle_questions, swapped_image_tokens
from utils.evaluation.metrics import breakdowns
from utils.evaluation.predict import evaluate
from utils.evaluation.report.overlays import draw
from utils.evaluation.report.tables import table
from utils.evaluation.results import check_finite, protocol, record
from utils.runtime.distributed import pick_device, process_group, world_size
from utils.runtime.errors import run_main
from utils.runtime.files import make_output_folder, write_errors_as_user_error, write_json
from utils.runtime.logs import peak_memory_gib, start_logging
from utils.runtime.precision import inference_dtype
from utils.training.zero3 import load_sharded

log = logging.getLogger("eval")


def main() -> None:
    args = parse_eval()
    start_logging()
    out = make_output_folder(args.out)
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
            *(len(samples), seconds, len(samples) / seconds, world_size(), peak_memory_gib()),
        )
        check_finite(args, samples, predictions)
        scores = breakdowns([one.score for one in predictions])
        print(table(scores), flush=True)  # before anything is written: a full disk does not cost the work
        if model.config.neutral_fusion:
            print("neutral fusion: CLIP alone reaches the language model, so this is not the published model")
        named = {"protocol": protocol(args, samples, model, dtype), "config": model.config.to_diff_dict()}
        by_index = {sample.index: sample for sample in samples}
        with write_errors_as_user_error(out / "metrics.json"):
            write_json(out / "metrics.json", {**scores, **named})
        with write_errors_as_user_error(out / "predictions.json"):
            write_json(out / "predictions.json", [record(one, by_index[one.score.index]) for one in predictions])
        if args.overlays:
            with write_errors_as_user_error(out / "overlays"):
                draw(out / "overlays", args.overlays, by_index, predictions, model.config.single_target)
    log.info("written to %s", out)


def load(args: EvalArgs, device: torch.device, dtype: torch.dtype) -> tuple[PixDLMForCausalLM, PixTokenizer, Any]:
    """Model and tokenizer, and with --shard the engine that runs the model."""
    if not args.shard:
        return (*load_model(args.model, device, dtype, args.backbones), None)
    return load_sharded(lambda: load_model(args.model, "cpu", dtype, args.backbones), device, dtype, args.offload)


if __name__ == "__main__":
    run_main(main)
