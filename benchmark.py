"""Measure speed and memory: `python benchmark.py --config mini|golden|release|native [--out FILE.json]`.

Prints a table of data loading, the forward pass by its parts, teacher-forced evaluation, generation and a
training step; `--compare OLD.json` adds ratios to an earlier run, `--plan` prints instead what training on
GPUs takes. Weights are random, as no time depends on their values. `--help` lists the options.
"""

from __future__ import annotations

from pathlib import Path

from utils.benchmark.plan import plan_report
from utils.benchmark.run import benchmark_report
from utils.cli.benchmark_options import parse_benchmark
from utils.runtime.errors import run_main
from utils.runtime.files import make_output_folder
from utils.runtime.logs import start_logging


def main() -> None:
    args = parse_benchmark()
    start_logging()
    if args.out:
        make_output_folder(Path(args.out).parent)
    print(plan_report(args) if args.plan else benchmark_report(args))


if __name__ == "__main__":
    run_main(main)
