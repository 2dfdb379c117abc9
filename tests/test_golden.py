"""The published model, number for number, on tiny dimensions (tests/golden.py), and the script that compares."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden import Quantity, check, golden_tensor, read
from tests.training import CHECKOUT

TESTS = CHECKOUT / "tests"
NUMBERS = TESTS / "golden"
TOKENIZER = CHECKOUT.parent / "shared" / "golden" / "tokenizer.model"  # not copied into the repository


@pytest.fixture(scope="module")
def quantities() -> dict[str, Quantity]:
    """Everything that the numbers under tests/ check."""
    return {one.name: one for one in check(read(NUMBERS, TOKENIZER))}


def test_the_published_numbers_come_out(quantities: dict[str, Quantity]) -> None:
    assert [str(one) for one in quantities.values() if not one.holds] == []


def test_nothing_goes_unchecked(quantities: dict[str, Quantity]) -> None:
    """358 gradients and the largest of all others; what is a file's key or a sample's field has a line each."""
    assert sum(name.startswith("grad ") for name in quantities) == 358
    recorded = {f"s{number}.{name}" for number in (0, 1) for name in ("gt_area", "mask_score", "intersection", "union")}
    recorded |= {name.removesuffix("_16th").removesuffix("_8th").removesuffix("_4th") for name in arrays()}
    recorded |= {f"batch.{name}" for name in ("loss", "ce_loss", "mask_loss", "input_ids", "labels", "attention_mask")}
    recorded |= {f"pieces.{name}" for name in ("bce", "dice", "overlap", "conditioned", "position_embedding_448")}
    assert recorded <= quantities.keys()


def test_ids_are_the_published_ones(quantities: dict[str, Quantity]) -> None:
    if not TOKENIZER.is_file():
        pytest.skip(f"no {TOKENIZER}: ids of Llama's vocabulary are not tested")
    names = ("ids of the recorded prompt", "input_ids", "labels", "question_ids")
    assert all(not quantities[f"s{number}.{name}"].skipped for number in (0, 1) for name in names)


def test_without_a_tokenizer_only_the_ids_are_skipped() -> None:
    found = {one.name: one for one in check(read(NUMBERS))}
    assert {name for name, one in found.items() if one.skipped} == {"s0.ids and labels", "s1.ids and labels"}
    assert all(one.holds for one in found.values())


def test_a_salt_makes_other_weights() -> None:
    assert not np.allclose(golden_tensor("a.weight", [4, 4], ""), golden_tensor("a.weight", [4, 4], "x"))


# The script


def arrays() -> list[str]:
    return list(np.load(NUMBERS / "expected.npz").keys())


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TESTS / "golden.py", folder], capture_output=True, text=True)


@pytest.mark.slow
def test_numbers_that_are_off_by_five_percent_fail(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(NUMBERS, tmp_path / "golden"))
    expected, parameter = json.loads((folder / "expected.json").read_text()), "model.mm_projector.weight"
    expected["train_batch"]["losses"]["ce_loss"] *= 1.05
    expected["train_batch"]["grad_norms"][parameter] *= 1.05
    expected["samples"][1]["mask_score"] *= 1.05
    (folder / "expected.json").write_text(json.dumps(expected))
    for file, key in (("expected.npz", "s0.stitch_1_16th"), ("pieces.npz", "conditioned")):
        numbers = dict(np.load(folder / file))
        numbers[key][np.unravel_index(np.abs(numbers[key]).argmax(), numbers[key].shape)] *= 1.05
        np.savez(folder / file, **numbers)
    done = run(folder)
    assert done.returncode == 1, done.stderr
    failed = {" ".join(line.split()[1:-3]) for line in done.stdout.splitlines() if line.startswith("FAIL")}
    changed = {"batch.ce_loss", f"grad {parameter}", "s1.mask_score", "s0.stitch_1", "pieces.conditioned"}
    assert failed == changed


def test_what_is_no_golden_folder_is_told(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2 and "no tensors.json, expected.json" in done.stderr
    assert "Traceback" not in done.stderr
