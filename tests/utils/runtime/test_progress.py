"""utils.runtime.progress: tqdm's bar, and lines in the log where tqdm is not installed."""

from __future__ import annotations

import logging
import sys

import pytest
from tqdm import tqdm

from utils.runtime import progress
from utils.runtime.progress import PlainBar, byte_bar


def test_without_tqdm_a_line_comes_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with caplog.at_level(logging.INFO), byte_bar(8_000_000, "weights", initial=1_000_000) as bar:
        assert isinstance(bar, PlainBar)
        for now[0] in (4.0, 9.9, 10.0, 19.0, 20.5):
            bar.update(1_000_000)
    assert [one.getMessage() for one in caplog.records] == ["weights: 4 of 8 MB", "weights: 6 of 8 MB"]


def test_with_tqdm_the_bar_is_its_own() -> None:
    with byte_bar(10, "weights", initial=3) as bar:
        bar.update(4)
        assert isinstance(bar, tqdm) and (bar.n, bar.total) == (7, 10)
