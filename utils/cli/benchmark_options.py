"""Options of benchmark.py."""

from __future__ import annotations

from dataclasses import dataclass

from model.presets import NAMED_CONFIGS
from utils.cli.options import check_at_least, check_one_of, option, parse
from utils.runtime.errors import UserError

PARTS = ("data", "forward", "eval", "generate", "train")  # in the order of a run; training changes the model


@dataclass
class BenchmarkArgs:
    """Options of benchmark.py. How a step trains is what train.py does by default with the same --config."""

    config: str = option("mini", "mini, golden (release at tiny dimensions), release or native; weights are random.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N; OMP_NUM_THREADS sets a CPU's threads.")
    precision: str = option("auto", "auto (bf16 on a GPU, fp32 on a CPU; a plan: as train.py), fp32 or bf16.")
    batch: int = option(4, "Samples per batch.")
    parts: list[str] = option(list(PARTS), f"Parts to measure, of {', '.join(PARTS)}.")
    repeats: int = option(5, "Timed runs of each part, after one in which operations are counted.")

    data: str | None = option(None, "DRSeg folder; default: 1920x1080 frames made of noise.")
    split: str = option("test", "Split of --data.")
    tokenizer: str | None = option(None, "Tokenizer; default: that of the configuration where it is, else mini's.")
    workers: int = option(2, "Processes of the DataLoader that is measured.")
    new_tokens: int = option(32, "Tokens in a generated answer.")
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
    check_one_of(args, "config", tuple(NAMED_CONFIGS))
    check_one_of(args, "precision", ("auto", "fp32", "bf16"))
    check_one_of(args, "engine", ("auto", "deepspeed", "torch"))
    if unknown := [part for part in args.parts if part not in PARTS]:
        raise UserError(f"--parts {' '.join(unknown)}: known are {', '.join(PARTS)}")
    check_at_least(args, 1, "batch", "repeats", "new_tokens")
    check_at_least(args, 0, "workers")
    if min(args.gpus) < 1:
        raise UserError(f"--gpus is {' '.join(map(str, args.gpus))}; each must be at least 1")
    if not (args.peak_tflops > 0 and 0 < args.mfu <= 1):
        raise UserError(f"--peak-tflops {args.peak_tflops} --mfu {args.mfu}: above 0, and a share is at most 1")
    if args.plan and args.compare:
        raise UserError("--compare is for measurements; leave it or --plan out")
    return args
