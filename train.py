"""Train PixDLM. `bash train.sh [release|native|mini]` runs this by DeepSpeed; `--help` lists the options.

A run writes under --run-dir: `last/` and `best/` (folders that eval.py --model takes), TensorBoard
files, `train.log`, and, until it has ended, `state/`, from which the same command resumes.
"""

from __future__ import annotations

import logging

from utils.cli.train_options import parse_train
from utils.runtime.distributed import pick_device, process_group
from utils.runtime.errors import STOPPED_STATUS, run_main
from utils.runtime.files import make_output_folder
from utils.runtime.logs import start_logging
from utils.runtime.ports import free_port
from utils.training.engine import launcher_environment
from utils.training.preemption import Stopped
from utils.training.run import process_group_timeout, train

log = logging.getLogger("train")


def main() -> int:
    args = parse_train()
    run_dir = make_output_folder(args.run_dir, "--run-dir")
    start_logging(run_dir / "train.log")
    device = pick_device()
    launcher_environment(device, free_port())
    with process_group(device, process_group_timeout(args)):
        try:
            train(args, run_dir, device)
        except Stopped as stopped:
            log.info("%s", stopped)
            return STOPPED_STATUS
    return 0


if __name__ == "__main__":
    run_main(main)
