"""Options of benchmark.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.presets import NAMED_CONFIGS
from utils.cli.options import at_least, one_of, option, parse
from utils.runtime.errors import UserError

PARTS = ("data", "forward", "eval", "generate", "train")  # in the order of a run; training changes the model
PRECISIONS = ("auto", "fp32", "bf16")
ENGINES = ("auto", "deepspeed", "torch")


@dataclass
class BenchmarkArgs:
    """Options of benchmark.py. How a step trains is what train.py does by default with the same --config."""

    config: str = option("mini", "mini, golden (release at tiny dimensions), release or native; weights are random.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("auto", "auto (bf16 on a GPU, fp32 on a CPU; a plan: as train.py), fp32 or bf16.")
    batch: int = option(4, "Samples a batch.")
    threads: int | None = option(None, "CPU threads; default: as many as PyTorch takes.")
    parts: list[str] = option(list(PARTS), f"Parts to measure, of {', '.join(PARTS)}.")
    repeats: int = option(5, "Timed runs of each part, whose median is told.")
    warmup: int = option(1, "Runs before them, beside the one in which operations are counted.")
    seed: int = option(0, "Of weights, pictures and order.")

    data: str | None = option(None, "DRSeg folder; default: golden's pictures, or 1920x1080 frames made of noise.")
    split: str = option("test", "Split of --data.")
    tokenizer: str | None = option(None, "Tokenizer; default: that of the configuration where it is, else mini's.")
    workers: int = option(2, "Processes of the DataLoader that is measured.")
    new_tokens: int = option(32, "Tokens that a generated answer has.")
    engine: str = option("auto", "The training step's: deepspeed, torch, or auto (deepspeed where it is installed).")

    plan: bool = option(False, "Measure nothing; print memory, communication and time of training on GPUs.")
    gpus: list[int] = option([1, 8, 64], "With --plan: numbers of GPUs.")
    peak_tflops: float = option(989.0, "With --plan: peak of a GPU, in 10^12 operations a second (H100, bf16, dense).")
    mfu: float = option(0.45, "With --plan: the share of that peak that training is assumed to reach.")

    out: str | None = option(None, "JSON file to write.")
    compare: str | None = option(None, "JSON file of an earlier run; ratios old/new are printed.")


def parse_benchmark(argv: list[str] | None = None) -> BenchmarkArgs:
    """benchmark.py's options, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args = parse(BenchmarkArgs, argv)
    one_of(args, "config", tuple(NAMED_CONFIGS))
    one_of(args, "precision", PRECISIONS)
    one_of(args, "engine", ENGINES)
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        raise UserError(f"--parts {' '.join(unknown)}: known are {', '.join(PARTS)}")
    at_least(args, 1, "batch", "repeats", "new_tokens", *(["threads"] if args.threads is not None else []))
    at_least(args, 0, "warmup", "workers", "seed")
    check_plan(args)
    return args


def check_plan(args: BenchmarkArgs) -> None:
    """What concerns the plan.

    Raises:
        UserError: an option has a value that cannot be.
    """
    if any(count < 1 for count in args.gpus):
        raise UserError(f"--gpus is {' '.join(map(str, args.gpus))}; each must be at least 1")
    if not args.peak_tflops > 0:
        raise UserError(f"--peak-tflops is {args.peak_tflops}; it must be above 0")
    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu is {args.mfu}; a share is above 0 and at most 1")
    if args.plan and args.compare:
        raise UserError("--compare is for measurements; leave it or --plan out")
    if args.compare and not Path(args.compare).is_file():
        raise UserError(f"--compare {args.compare}: no such file; name what an earlier --out wrote")
