"""utils.cli.demo_options: what cannot be is told."""

from __future__ import annotations

import pytest

from utils.cli.demo_options import parse_demo
from utils.runtime.errors import UserError


def test_defaults_stay_on_this_machine() -> None:
    args = parse_demo([])
    assert (args.host, args.share, args.user) == ("127.0.0.1", False, None)
    assert parse_demo(["--auth", "anna:a:b"]).user == ("anna", "a:b")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--queue", "0"], "--queue is 0"),
        (["--port", "-1"], "--port is -1"),
        (["--port", "70000"], "--port is 70000"),
        (["--max-upload", "0"], "--max-upload is 0"),
        (["--max-upload", "nan"], "--max-upload is nan"),
        (["--max-megapixels", "1e9"], "--max-megapixels is"),
        (["--max-wait", "0"], "--max-wait is 0"),
        (["--auth", "anna"], "--auth: give a user and a password"),
        (["--auth", ":x"], "--auth: give"),
        (["--api", "--share"], "--share opens a tunnel"),
    ],
)
def test_mistakes(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_demo(argv)
