"""Measure speed and memory: `python benchmark.py --config mini|golden|release|native [--out FILE.json]`.

Prints a table of data loading, the forward pass by its parts, forced evaluation, generation and a
training step; `--compare OLD.json` adds ratios to an earlier run, `--plan` prints instead what training on
GPUs takes. Weights are random: no time depends on them. `--help` lists the options.
"""

from __future__ import annotations

from utils.runtime.errors import UserError, run_main


def main() -> None:
    try:
        from utils.benchmark.run import benchmark
    except ModuleNotFoundError as error:  # measured machines are often bare
        raise UserError(f"{error.name.partition('.')[0]} is not installed; see requirements.txt") from error
    print(benchmark())


if __name__ == "__main__":
    run_main(main)
