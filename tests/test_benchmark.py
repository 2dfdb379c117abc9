"""benchmark.py as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import CHECKOUT

pytestmark = pytest.mark.slow

QUICK = ("--batch", "2", "--repeats", "1", "--new-tokens", "4", "--workers", "1")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=CHECKOUT, env=environ, capture_output=True, text=True)


def test_every_part_is_measured_and_compared(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    pictures = ("--data", "tests/golden/DRSeg", "--parts", "data")
    done = run("benchmark.py", "--config", "golden", *QUICK, *pictures, "--out", str(old))
    assert done.returncode == 0, done.stderr
    assert json.loads(old.read_text())["settings"]["frames"] == ["384x512", "640x360"]
    new = tmp_path / "new" / "new.json"
    done = run("benchmark.py", "--engine", "deepspeed", *QUICK, "--compare", str(old), "--out", str(new))
    assert done.returncode == 0, done.stderr
    found = json.loads(new.read_text())
    parts = {one["part"]: one for one in found["parts"]}
    for part, sections in {
        "forward": ["pixel path", "semantic path", "prompts", "language model", "masks", "losses"],
        "eval": ["masks", "frames and run lengths"],
        "generate": ["vision", "prompts", "writing"],
        "generate, one at a time": ["vision", "prompts", "writing"],
        "train": ["forward", "backward", "optimiser"],
    }.items():
        assert parts[part]["flops_per_sample"] > 0
        for section in sections:
            assert 0 < parts[f"{part}: {section}"]["seconds_per_sample"] <= parts[part]["seconds_per_sample"]
    assert 0 < parts["forward"]["share_of_peak"] < 1
    assert found["settings"]["threads"] == 1 and found["machine"]["versions"]["torch"]
    for expected in ("data: decode and collate", "of peak", "old/new", "config: mini (earlier: golden)"):
        assert expected in done.stdout, done.stdout
    assert not list(new.parent.glob(".*"))


def test_a_step_is_measured_where_deepspeed_is_not_installed() -> None:
    without = "import runpy, sys; sys.modules['deepspeed'] = None; sys.argv[:1] = ['benchmark.py']; "
    script = without + "runpy.run_path('benchmark.py', run_name='__main__')"
    done = run("-c", script, *QUICK, "--parts", "train")
    assert done.returncode == 0, done.stderr
    assert "engine: torch" in done.stdout and "optimiser" in done.stdout
