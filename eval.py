"""Evaluate a checkpoint: `python eval.py --model DIR --data DIR --split test --out DIR`.

Writes predictions.jsonl while it runs, and from that metrics.json, scores.jsonl, the table, report.html and, with
--overlays N, pictures. A stopped evaluation goes on with the same command. The numbers are the same on any number of
processes. With --benchmarks a,b,c it evaluates on several data sets and ends with one table.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch

from model.checkpoints.load import load_tokenizer
from model.pixdlm import load_model
from model.processor import PixDLMProcessor
from model.quantization import check_load_in
from utils.cli.eval_options import EvalArgs, decoding_of, parse_eval
from utils.evaluation.benchmarks import evaluate_benchmarks
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.evaluate import Evaluator
from utils.evaluation.protocols import Protocol, protocol_of
from utils.runtime.distributed import pick_device, process_group
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import make_output_folder
from utils.runtime.logs import start_logging
from utils.runtime.precision import inference_dtype
from utils.training.zero3 import load_sharded

log = logging.getLogger("eval")


def main() -> None:
    args = parse_eval()
    start_logging()
    out = make_output_folder(args.out)
    device = pick_device(args.device)
    dtype = inference_dtype(args.precision, device)
    check_load_in(args.load_in, device, dtype)  # before the data set is read
    # The order of summation in a matrix product depends on the number of threads, which a launcher derives
    # from the number of processes; a fixed number keeps the last digits the same.
    torch.set_num_threads(args.threads)
    with process_group(device):
        tokenizer, config = load_tokenizer(Path(args.model))
        processor = PixDLMProcessor(config, tokenizer)
        load = partial(load_model, args.model, dtype=dtype, backbones=args.backbones, load_in=args.load_in)
        if args.shard:
            ready = partial(load_sharded, load, device, dtype, args.offload)  # loads on the CPU
        else:
            ready = lambda: (*load(device=device), None)  # noqa: E731
        protocol = asked_by(args, config.answer_format)
        evaluator = Evaluator(Path(args.model), args.backbones, processor, protocol, ready, dtype)
        if args.benchmarks:
            evaluate_benchmarks(evaluator, args, out)
        else:
            evaluator.evaluate(args, out)


def asked_by(args: EvalArgs, learnt: str) -> Protocol:
    """The protocol that the options name, for a model that has learnt answers of a format.

    Raises:
        UserError: a sharded model would have to write.
    """
    reasoning = args.reasoning or ("none" if learnt == "seg" else "own")
    protocol = protocol_of(args.protocol, reasoning, decoding_of(args), (NO_CONTROL,), args.seed)
    if args.shard and protocol.writes:
        raise UserError(f"--shard cannot write, and {args.model} reasons by default; name --reasoning none or given")
    return protocol


if __name__ == "__main__":
    run_main(main)
