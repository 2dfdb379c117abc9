"""Training runs for tests: a tiny model, arguments for few steps, and a server that starts them quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.runtime.ports import free_port

CHECKOUT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NPROC")
TINY = {
    "text_config": {
        "hidden_size": 128,  # its embeddings are large enough for ZeRO-3 to part them
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.02,
        "pad_token_id": 0,
    },
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    },
    "pixel_encoder": {
        "trunk": {
            "embed_dim": 8,
            "num_heads": 1,
            "stages": [1, 1, 2, 1],
            "global_att_blocks": [3],
            "window_pos_embed_bkg_spatial_size": [4, 4],
            "window_spec": [8, 4, 4, 2],
        },
        "neck": {"d_model": 16},
    },
    "pixel_image_size": 64,
    "image_grid": 4,
    "mask_width": 16,
    "mask_heads": 2,
    "mask_mlp_width": 32,
    "mask_embed_width": 8,
    "pixel_embed_width": 16,
    "mask_size": 32,
}
OVERRIDES = ["--override", *(f"{field}={json.dumps(value)}" for field, value in TINY.items())]
SERVER = """
import atexit, importlib, json, os, runpy, sys, traceback
import deepspeed, torch
scripts = {name: importlib.import_module(name) for name in ("train", "eval", "infer", "merge_lora", "extract")}
from utils.runtime.errors import run_main

def run(request, rank):
    for number, said in enumerate(request["said"][rank], start=1):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.update(request["environment"], RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # which was read when torch was imported
    sys.argv = [request["script"], *request["arguments"]]
    try:
        exec(request["before"], globals())
        if request["script"] in scripts:
            run_main(scripts[request["script"]].main)
        else:
            runpy.run_path(request["script"], run_name="__main__")
            return 0
    except SystemExit as ended:
        return ended.code
    except BaseException:
        traceback.print_exc()
        return 1

for line in sys.stdin:
    request, children = json.loads(line), []
    for rank in range(len(request["said"])):
        children.append(os.fork())
        if not children[-1]:
            status = run(request, rank)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(status)  # what is imported need not be taken down for every run
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "overlap_loss", "grounding_loss", "text_loss")


@dataclass
class Ended:
    """How a run ended and where its files are."""

    status: int
    said: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text()

    def scalars(self, name: str) -> dict[int, float]:
        """A value by step, from TensorBoard's files; a step that comes again fails."""
        events = EventAccumulator(str(self.folder), purge_orphaned_data=False)
        events.Reload()
        found = events.Scalars(name)
        assert all(a.step < b.step for a, b in zip(found, found[1:], strict=False))
        return {one.step: one.value for one in found}

    @property
    def losses(self) -> list[float]:
        return list(self.scalars("train/loss").values())

    def state(self, which: str = "last") -> dict[str, torch.Tensor]:
        return load_file(self.folder / which / "model.safetensors")

    def training(self, which: str = "last") -> dict[str, Any]:
        return json.loads((self.folder / which / "training.json").read_text())


def command(data: Path, folder: Path, *arguments: str | Path) -> list[str]:
    """train.py's arguments for a short run of a tiny model; later ones replace earlier ones."""
    given = ["--config", "mini", "--data", data, "--run-dir", folder, "--workers", "0", "--epochs", "2"]
    given += ["--batch-size", "2", "--log-every", "1", "--warmup-steps", "2"]
    given += ["--mirror", "False", "--validate-every", "1"]
    given += ["--ce-weight", "1"]  # or the text would hardly show in the losses that are compared
    given += [*OVERRIDES, *arguments]
    return [str(one) for one in given]


@dataclass
class Finished:
    """A process that has ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Server:
    """Runs scripts in forks of a process that has imported everything: a second each instead of ten."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.runs = scratch, 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=CHECKOUT,
            env=environment(PYTHONPATH=str(CHECKOUT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def processes(
        self, script: str | Path, arguments: list[str | Path], world: int = 1, before: str = "", threads: int = 1
    ) -> list[Finished]:
        """A script on `world` processes, as a launcher starts them; `before` is code that each runs first.

        `script` is one of the project's by its name, or a file.
        """
        self.runs += 1
        said = [[str(self.scratch / f"{self.runs}.{rank}.{i}") for i in (1, 2)] for rank in range(world)]
        launched = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        request = {"script": str(script), "arguments": [str(one) for one in arguments], "before": before, "said": said}
        request["environment"] = {"OMP_NUM_THREADS": str(threads)} | (launched if world > 1 else {})
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        statuses = self.process.stdout.readline()
        assert statuses, "the server ended"
        texts = [[Path(file).read_text() for file in files] for files in said]
        return [Finished(status, *text) for status, text in zip(json.loads(statuses), texts, strict=True)]

    def run(self, name: str, arguments: list[str | Path], before: str = "") -> tuple[int, str]:
        """Status of a script on one process, and all that it wrote."""
        (ended,) = self.processes(name, arguments, before=before)
        return ended.status, ended.stdout + ended.stderr

    def run_code(self, code: str, *arguments: str | Path, world: int) -> list[Finished]:
        """A program on `world` processes, which all have to end well."""
        file = self.scratch / f"program{self.runs}.py"
        file.write_text(code)
        ended = self.processes(file, list(arguments), world)
        assert [one.status for one in ended] == [0] * world, "\n".join(one.stderr for one in ended)[-3000:]
        return ended

    def train(self, data: Path, folder: Path, *arguments: str | Path, before: str = "") -> Ended:
        return Ended(*self.run("train", command(data, folder, *arguments), before), folder)

    def train_well(self, data: Path, folder: Path, *arguments: str | Path, before: str = "") -> Ended:
        ended = self.train(data, folder, *arguments, before=before)
        assert ended.status == 0, ended.said[-3000:]
        return ended

    def train_on_two(self, data: Path, folder: Path, *arguments: str | Path) -> Ended:
        """train.py on two processes; what both said."""
        ended = self.processes("train", command(data, folder, *arguments), world=2)
        said = "".join(one.stdout + one.stderr for one in ended)
        assert [one.status for one in ended] == [0, 0], said[-5000:]
        return Ended(0, said, folder)


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    return {**kept, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **settings}
