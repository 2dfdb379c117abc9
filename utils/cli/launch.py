"""Run a script on this node's processes, or on those of a hostfile's nodes, through DeepSpeed's launcher.

    python -m utils.cli.launch [--hostfile FILE] SCRIPT [ARGUMENT ...]

The number of processes is the environment's NPROC, else one for each GPU that PyTorch finds. Without a GPU it
is one, or one for each core in training with a global batch that they divide, such as mini's: beside a busy
neighbour one process of several threads slows down far more (PixDLM/mini/README.md). A single process runs the
script itself, without a launcher. The exit status is the script's.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from utils.runtime.errors import UserError, run_main
from utils.runtime.ports import free_port

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of version 2: microseconds of CPU time, of so many
MOST_CPU_PROCESSES = 8  # each holds a copy of the model


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """The CUDA_VISIBLE_DEVICES entry of each GPU that PyTorch finds: "0", "1", … or the present entries."""
    import torch  # late, so that errors in the arguments need not wait for it

    count = torch.cuda.device_count()
    visible = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[:count] if len(visible) >= count else [str(i) for i in range(count)]


def process_count(environ: Mapping[str, str], gpus: int, script: list[str]) -> int:
    """The number of processes on this node for `script`, a path and its arguments.

    Raises:
        UserError: NPROC is no positive number, or more than there are GPUs.
    """
    text = environ.get("NPROC", "")
    if not text:
        return divided(script, gpus or min(usable_cores(), MOST_CPU_PROCESSES), or_else=gpus or 1)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"NPROC is {text!r}; give it the number of processes, 1 or more")
    if 0 < gpus < int(text):
        raise UserError(
            f"NPROC is {text} but PyTorch finds {gpus} GPU{'s' * (gpus > 1)}; a process needs one of its own. "
            "Lower NPROC, or hide the GPUs to run on the CPU (CUDA_VISIBLE_DEVICES=)"
        )
    return int(text)


def divided(script: list[str], most: int, or_else: int) -> int:
    """Of at most so many processes as many as divide the global batch of a training run; `or_else` without one."""
    if Path(script[0]).name != "train.py":
        return or_else
    from utils.cli.train_options import parse_train  # late, since it imports transformers

    args = parse_train(script[1:])
    if args.global_batch is None:
        return or_else
    micro_step = args.global_batch // args.grad_accumulation
    return max((n for n in range(1, most + 1) if micro_step % n == 0), default=1)


def local_command(script: list[str], processes: int, gpus: list[str]) -> list[str]:
    """The command that runs `script` (a path and its arguments) on `processes` processes of this node.

    DeepSpeed's per-node launcher is called as its `deepspeed` front end calls it; the front end itself
    renumbers the GPUs and so ignores CUDA_VISIBLE_DEVICES.
    """
    if processes == 1:
        return [sys.executable, *script]
    # The launcher sets CUDA_VISIBLE_DEVICES from the slots, on the CPU too; -1 keeps hidden GPUs hidden.
    slots = gpus[:processes] or ["-1"] * processes
    world_info = base64.urlsafe_b64encode(json.dumps({"localhost": slots}).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world_info}"]
    return [*launcher, f"--master_port={free_port()}", "--no_local_rank", "--log_level=critical", *script]


def hostfile_command(script: list[str], hostfile: Path, environ: Mapping[str, str]) -> list[str]:
    """The command that runs `script` on the nodes of `hostfile` (lines such as `worker-1 slots=8`).

    Raises:
        UserError: no such file, or pdsh is not installed and needed.
    """
    if not hostfile.is_file():
        raise UserError(f"{hostfile}: no such hostfile; it lists the nodes, one a line: `worker-1 slots=8`")
    text = hostfile.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    if not any(lines) or "\ufffd" in "".join(lines) or "\0" in text:
        raise UserError(f"{hostfile}: no hostfile in UTF-8; it lists the nodes, one a line: `worker-1 slots=8`")
    if sum(map(bool, lines)) > 1 and not shutil.which("pdsh"):
        raise UserError(f"{hostfile} lists several nodes, which are reached by pdsh; install it (apt install pdsh)")
    port = environ.get("MASTER_PORT") or free_port()
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile}", f"--master_port={port}"]
    if environ.get("NPROC"):
        launcher.append(f"--num_gpus={process_count(environ, 0, script)}")
    return [*launcher, "--no_local_rank", *script]


def usable_cores() -> int:
    """The cores that this process may run on, by its affinity and by its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return cores


def set_defaults(environ: dict[str, str], processes: int, gpus: int) -> None:
    """Set environment variables for processes without a GPU, where the user has not.

    DeepSpeed then runs on the CPU, and several processes divide the cores among them.
    """
    if gpus:
        return
    environ.setdefault("DS_ACCELERATOR", "cpu")
    if processes > 1:
        environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.cli.launch", description=__doc__.splitlines()[0])
    parser.add_argument("--hostfile", type=Path, help="the nodes to run on, in DeepSpeed's format")
    parser.add_argument("script", help="the script to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args()
    script = [args.script, *args.arguments]

    environ = dict(os.environ)
    if args.hostfile:
        command = hostfile_command(script, args.hostfile, environ)
    else:
        gpus = visible_gpus(environ)
        processes = process_count(environ, len(gpus), script)
        set_defaults(environ, processes, len(gpus))
        command = local_command(script, processes, gpus)
    os.execvpe(command[0], command, environ)


if __name__ == "__main__":
    run_main(main)
