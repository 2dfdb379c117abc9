"""benchmark.py as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
QUICK = ("--batch", "2", "--repeats", "1", "--warmup", "0", "--threads", "1", "--new-tokens", "4", "--workers", "1")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *command], cwd=CHECKOUT, env=environ, capture_output=True, text=True)


def test_every_part_is_measured_and_compared(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    done = run("benchmark.py", "--config", "golden", *QUICK, "--parts", "data", "--out", str(old))
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(old.read_text())["data"]["frames"]) == [[360, 640], [512, 384]]
    new = tmp_path / "new" / "new.json"
    command = ("benchmark.py", "--engine", "deepspeed", *QUICK, "--compare", str(old))
    done = run(*command, "--out", str(new))
    assert done.returncode == 0, done.stderr
    found = json.loads(new.read_text())
    parts = {one["part"]: one for one in found["parts"]}
    for part, sections in {
        "forward": ["pixel path", "semantic path", "prompts", "language model", "masks", "losses"],
        "eval": ["masks", "frames and scores"],
        "generate": ["vision", "prompts", "writing"],
        "generate, one at a time": ["vision", "prompts", "writing"],
        "train": ["forward", "backward", "optimiser"],
    }.items():
        assert parts[part]["flops_per_sample"] > 0
        for section in sections:
            assert 0 < parts[f"{part}: {section}"]["seconds_per_sample"] <= parts[part]["seconds_per_sample"]
    assert 0 < parts["forward"]["share_of_peak"] < 1
    assert (found["data"]["samples"], found["data"]["pictures"]) == (2, 2)
    assert found["training"]["by"].startswith("DeepSpeed ") and found["training"]["trained_parameters"]["clip"]
    assert found["machine"]["versions"]["torch"] and found["machine"]["threads"] == 1
    assert len(found["ratios"]) == 2
    for expected in ("data: decode and collate", "of peak", "old/new", "only in the new run: eval", "'golden' then"):
        assert expected in done.stdout, done.stdout
    assert not list(new.parent.glob(".*"))


def test_a_package_that_is_missing_is_named() -> None:
    without = "import runpy, sys; sys.modules['sam2'] = None; sys.argv = ['benchmark.py']; "
    done = run("-c", without + "runpy.run_path('benchmark.py', run_name='__main__')")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: sam2 is not installed; see requirements.txt"
