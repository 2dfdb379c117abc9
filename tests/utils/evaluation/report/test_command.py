"""python -m utils.evaluation.report: options, and what is said where they do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.training import CHECKOUT
from tests.utils.evaluation.report.evaluated import make_samples, write_run
from utils.datasets.base import Sample
from utils.evaluation.report import command
from utils.runtime.errors import UserError


@dataclass(frozen=True)
class Keyed:
    """A sample with a key, as a data set's loader gives it."""

    sample: Sample
    key: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sample, name)


def test_a_page_is_written_from_the_data_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, asked = make_samples(tmp_path / "frames"), []
    keyed = [Keyed(sample, key) for key, sample in samples.items()]
    monkeypatch.setattr(command, "load_dataset", lambda *given: asked.append(given) or keyed)
    folder = write_run(tmp_path / "eval", samples)
    out = tmp_path / "page.html"
    command.main([str(folder), "--data", "D", "--split", "val", "--polygons", "first", "--out", str(out)])
    assert asked == [("D", "val", "drseg", "first", False, "check")]
    assert "PixDLM on drseg" in out.read_text() and "Where is vehicle 11?" in out.read_text()


def test_models_of_one_and_of_several_masks_are_not_compared(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "frames")
    several = write_run(tmp_path / "a", samples)
    one = write_run(tmp_path / "b", samples, config={"single_target": True})
    assert command.answers_with_one_mask([one]) and not command.answers_with_one_mask([several, several])
    with pytest.raises(UserError, match="report on each alone"):
        command.answers_with_one_mask([several, one])
    (one / "metrics.json").write_text(json.dumps({"overall": {}}))
    with pytest.raises(UserError, match="metrics.json: holds no `config`"):
        command.answers_with_one_mask([one])


def test_a_user_s_mistake_ends_with_status_2_and_without_a_traceback(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--data", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "utils.evaluation.report", *arguments], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tmp_path}/metrics.json: no such file" in done.stderr
