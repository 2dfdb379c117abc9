"""Options of eval.py."""

from __future__ import annotations

from dataclasses import dataclass

from utils.cli.options import BackboneArgs, check_at_least, check_one_of, option, parse
from utils.evaluation.controls import CONTROLS
from utils.runtime.errors import UserError


@dataclass
class EvalArgs(BackboneArgs):
    """Options of eval.py. The architecture comes from --model alone."""

    model: str = option("", "Model folder, e.g. PixDLM/mini or runs/native/best.")
    data: str = option("", "Folder of the data set, e.g. data/DRSeg.")
    split: str = option("test", "Split to evaluate.")
    out: str = option("runs/eval", "Where metrics.json, predictions.json and overlays go.")
    dataset: str = option("drseg", "Name of the data set's format.")
    polygons: str = option("union", "A target's polygons: their union, or only the first (published reading).")
    orientation: str = option("check", "Orientation tags: apply them, read as stored, or check (refuse where open).")
    skip_bad_records: bool = option(False, "Count and list records that cannot be used instead of stopping.")
    control: str = option("none", f"What the model is not shown: {', '.join(CONTROLS)}.")
    seed: int = option(0, "Seed of --control shuffled-questions.")
    overlays: int = option(0, "How many pictures of frame, prediction and ground truth to draw.")
    limit: int | None = option(None, "Evaluate the first N records only; named in the results.")
    batch_size: int = option(8, "Records per batch at most; those of one picture stay together as far as they fit.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("auto", "auto (bf16 on a GPU, fp32 on a CPU), fp32, bf16 or fp16.")
    workers: int = option(2, "Processes that decode pictures, for each evaluating process.")
    shard: bool = option(False, "Shard the weights over the processes (ZeRO-3): for a model larger than a GPU.")
    offload: bool = option(False, "With --shard: keep the shards in CPU memory until they are needed.")
    threads: int = option(1, "CPU threads of a process; another number may change last digits. NPROC is faster.")


def parse_eval(argv: list[str] | None = None) -> EvalArgs:
    """eval.py's options, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args = parse(EvalArgs, argv)
    for name in ("model", "data"):
        if not getattr(args, name):
            raise UserError(f"--{name} is not given; name a folder, e.g. --model PixDLM/mini --data data/DRSeg-mini")
    check_one_of(args, "control", CONTROLS)
    check_at_least(args, 1, "batch_size", "threads")
    check_at_least(args, 0, "workers", "overlays", "seed")
    if args.limit is not None:
        check_at_least(args, 1, "limit")
    if args.offload and not args.shard:
        raise UserError("--offload needs --shard, which shards the weights")
    if args.shard and ":" in args.device:
        raise UserError(f"--device {args.device} does not go with --shard; choose the GPU by CUDA_VISIBLE_DEVICES")
    return args
