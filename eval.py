"""Evaluate a checkpoint: `python eval.py --model DIR --data DIR --split test --out DIR`.

Writes predictions.jsonl while it runs, and from that metrics.json, scores.jsonl, the table, report.html and, with
--overlays N, pictures. A stopped evaluation goes on with the same command. The numbers are the same on any number of
processes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from model.checkpoints.load import load_tokenizer
from model.pixdlm import load_model
from model.processor import PixDLMProcessor
from utils.cli.eval_options import EvalArgs, decoding_of, parse_eval
from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.registry import dataset_spec
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.finish import check_finite
from utils.evaluation.predict import Loading, predict
from utils.evaluation.predictions import FILE, PartialPredictions, Record, claimed, read_predictions
from utils.evaluation.protocols import protocol_of
from utils.evaluation.report.overlays import check_own_overlays, draw_overlays
from utils.evaluation.report.page import write_report
from utils.evaluation.report.tables import heading, table
from utils.evaluation.results import RunFacts, run_header, write_results
from utils.evaluation.score import scored
from utils.evaluation.split import askable_controls, read_split
from utils.runtime.distributed import barrier, pick_device, process_group, rank, world_size
from utils.runtime.errors import UserError, print_result, run_main
from utils.runtime.files import make_output_folder, write_errors_as_user_error
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
    with process_group(device), claimed(out):
        spec = dataset_spec(args.dataset)
        tokenizer, config = load_tokenizer(Path(args.model))
        reasoning = args.reasoning or ("none" if config.answer_format == "seg" else "own")
        protocol = protocol_of(args.protocol, reasoning, decoding_of(args), (NO_CONTROL,), args.seed)
        if args.shard and protocol.writes:
            raise UserError(
                f"--shard cannot write, and {args.model} reasons by default; name --reasoning none or given"
            )
        processor = PixDLMProcessor(config, tokenizer)
        samples, data = read_split(args, processor, protocol)
        if args.controls:
            protocol = protocol.with_controls(askable_controls(samples, processor, protocol))
        load = partial(load_model, args.model, dtype=dtype, backbones=args.backbones)
        if args.shard:
            model, tokenizer, runner = load_sharded(load, device, dtype, args.offload)  # loads on the CPU
        else:
            model, tokenizer, runner = *load(device=device), None
        facts = RunFacts(asdict(args), protocol, spec, data, model, Path(args.model), args.backbones, dtype)
        predictions = PartialPredictions(out, run_header(facts) if rank() == 0 else {})
        started = time.perf_counter()
        loading = Loading(args.pass_size, args.batch_size, args.workers, dtype, f"evaluating {args.split}")

        def write(records: list[Record]) -> None:
            predictions.write(check_finite(args.model, records))

        predict(model, tokenizer, samples, protocol, loading, write, predictions.records, runner)
        predictions.close()
        barrier()
        if rank():
            return
        seconds = time.perf_counter() - started
        log.info(
            "%d records in %.1f s (%.1f a second) on %d processes; at most %.2f GiB in this one",
            *(len(samples), seconds, len(samples) / seconds, world_size(), peak_memory_gib()),
        )
        with write_errors_as_user_error(out / FILE):
            predictions.finish([sample.key for sample in samples])
        write_scores(args, out, samples, data, spec)
        predictions.discard()
    log.info("written to %s", out)


def write_scores(args: EvalArgs, out: Path, samples: list[Sample], data: dict, spec: DatasetSpec) -> None:
    """Everything that is made of predictions.jsonl: table, metrics.json, scores.jsonl, report and overlays."""
    header, records = read_predictions(out / FILE)
    metrics, lines = scored(header, records, samples, data, spec)
    print_result(f"{heading(metrics)}\n{table(metrics, spec)}")  # before the files: a full disk does not cost it
    if header["protocol"]["neutral_fusion"]:
        print_result("neutral fusion: CLIP alone reaches the language model, so this is not the published model")
    write_results(out, metrics, lines)
    draw_overlays(out / "overlays", args.overlays, samples, records[NO_CONTROL], lines)
    page = out / "report.html"
    if args.report:
        write_report(page, [out], samples, spec)
    else:
        page.unlink(missing_ok=True)  # of an earlier evaluation, whose numbers are gone


if __name__ == "__main__":
    run_main(main)
