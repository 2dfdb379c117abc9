"""utils.training.resume: what a run takes up again, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.training.resume import RunStates


def test_an_error_from_inside_a_run_is_no_second_start(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="a worker"), RunStates(tmp_path, {}, keep=2).locked():
        raise BlockingIOError("a worker")
