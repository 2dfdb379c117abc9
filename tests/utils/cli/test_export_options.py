"""utils.cli.export_options: options of merge_lora.py and extract.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.cli.export_options import parse_extract, parse_merge
from utils.runtime.errors import UserError


def test_a_flag_may_stand_before_the_folders() -> None:
    args, checkpoint, out = parse_merge(["--overwrite", "a", "b"])
    assert args.overwrite and (checkpoint, out) == (Path("a"), Path("b"))
    assert not parse_merge(["--overwrite", "false", "a", "b"])[0].overwrite
    assert parse_extract(["--overwrite", "a", "b", "--parts", "lora"])[0].overwrite
    with pytest.raises(UserError, match="--format is 'onnx'; known are pixdlm, published"):
        parse_merge(["a", "b", "--format", "onnx"])
    with pytest.raises(UserError, match="always keeps the backbones apart"):
        parse_merge(["a", "b", "--format", "published", "--without-backbones"])
