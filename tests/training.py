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

CHECKOUT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NPROC")
TINY = {
    "text_config": {
        "hidden_size": 128,  # its embeddings are large enough for ZeRO-3 to part them
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
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
import atexit, importlib, json, os, sys, traceback
import deepspeed
scripts = {name: importlib.import_module(name) for name in ("train", "eval")}
from utils.errors import run_main

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        for number in (1, 2):
            os.dup2(os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.argv = [request["script"] + ".py", *request["arguments"]]
        try:
            exec(request["before"])
            run_main(scripts[request["script"]].main)
        except SystemExit as ended:
            status = ended.code
        except BaseException:
            traceback.print_exc()
            status = 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)  # what is imported need not be taken down for every run
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "overlap_loss", "grounding_loss")


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
    given += ["--batch-size", "2", "--log-every", "1", "--warmup-steps", "2", "--hint-share", "0"]
    given += ["--mirror", "False", "--validate-every", "1"]
    given += [*OVERRIDES, *arguments]
    return [str(one) for one in given]


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

    def run(self, name: str, arguments: list[str], before: str = "") -> tuple[int, str]:
        """Status of a script and all that it wrote; `before` is code that its process runs first."""
        self.runs += 1
        said = self.scratch / f"said{self.runs}"
        request = {"script": name, "arguments": arguments, "before": before, "said": str(said)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        assert status, "the server ended"
        return int(status), said.read_text()

    def train(self, data: Path, folder: Path, *arguments: str | Path, before: str = "") -> Ended:
        return Ended(*self.run("train", command(data, folder, *arguments), before), folder)

    def train_well(self, data: Path, folder: Path, *arguments: str | Path, before: str = "") -> Ended:
        ended = self.train(data, folder, *arguments, before=before)
        assert ended.status == 0, ended.said[-3000:]
        return ended


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    return {**kept, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **settings}
