"""utils.cli.options: how options of every script are read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from utils.cli.eval_options import parse_eval
from utils.cli.train_options import parse_train


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--batchsize", "2"], "--batchsize"), (["--batch-size", "many"], "invalid int value: 'many'"), (["x"], "x")],
)
def test_unknown_and_malformed_options_end_with_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for parse in (parse_train, parse_eval):
        with pytest.raises(SystemExit) as left:
            parse(argv)
        assert left.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("parse", [parse_train, parse_eval])
def test_options_are_named_in_full(parse: Callable, capsys: pytest.CaptureFixture) -> None:
    """train.sh looks for --run-dir, --data and --polygons among the arguments too, and would miss a part of one."""
    with pytest.raises(SystemExit, match="2"):
        parse(["--poly", "first"])
    assert "--poly" in capsys.readouterr().err
