"""Options of merge_lora.py and extract.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import HfArgumentParser

from utils.cli.options import BackboneArgs, check_one_of, option, parser_of
from utils.runtime.errors import UserError

FORMATS = ("pixdlm", "published")


@dataclass
class MergeArgs(BackboneArgs):
    """Options of merge_lora.py beside checkpoint and target."""

    format: str = option(
        "pixdlm", "pixdlm (safetensors, loads with no other file) or published (its layout and names)."
    )
    precision: str = option("bf16", "Dtype of the saved weights: bf16, fp16 or fp32.")
    without_backbones: bool = option(False, "Leave CLIP and SAM2 out, as published.")
    metrics: str | None = option(
        None, "metrics.json of an evaluation of the checkpoint, for the model card; its hashes are checked."
    )
    overwrite: bool = option(False, "Replace the target where it exists.")


@dataclass
class ExtractArgs:
    """Options of extract.py beside checkpoint and target."""

    parts: str = option("", "Parts to write, with commas between: fusion,projector,mask_decoder,lora.")
    format: str = option("pixdlm", "pixdlm (safetensors) or published (the align_stages dictionary of the fusion).")
    overwrite: bool = option(False, "Replace the target where it exists.")


def expand_flags(parser: HfArgumentParser, argv: list[str]) -> list[str]:
    """Give flags an explicit value, so that a file name may follow: `--overwrite` -> `--overwrite=True`."""
    flags = {text for action in parser._actions if action.const is True for text in action.option_strings}
    followed = zip(argv, [*argv[1:], ""], strict=True)
    values = {"true", "false", "yes", "no", "1", "0"}
    return [f"{one}=True" if one in flags and after.lower() not in values else one for one, after in followed]


def parse_merge(argv: list[str] | None = None) -> tuple[MergeArgs, Path, Path]:
    """merge_lora.py's options, checked, the checkpoint and the target.

    Raises:
        UserError: an option has a value that cannot be, or they do not go together.
    """
    parser = parser_of(MergeArgs)
    parser.add_argument("checkpoint", type=Path, help="Model folder, DeepSpeed checkpoint or published folder.")
    parser.add_argument("out", type=Path, help="Folder to write.")
    parsed = vars(parser.parse_intermixed_args(expand_flags(parser, sys.argv[1:] if argv is None else argv)))
    checkpoint, out = parsed.pop("checkpoint"), parsed.pop("out")
    args = MergeArgs(**parsed)
    check_one_of(args, "format", FORMATS)
    check_one_of(args, "precision", ("bf16", "fp16", "fp32"))
    if args.format == "published" and args.without_backbones:
        raise UserError("--format published always keeps the backbones apart, in files of their own")
    return args, checkpoint, out


def parse_extract(argv: list[str] | None = None) -> tuple[ExtractArgs, Path, Path | None]:
    """extract.py's options, checked, the checkpoint and the target (None lists the parts).

    Raises:
        UserError: an option has a value that cannot be, or a target without parts or the reverse.
    """
    parser = parser_of(ExtractArgs)
    parser.add_argument("checkpoint", type=Path, help="Model folder or checkpoint of any kind.")
    parser.add_argument("out", type=Path, nargs="?", help="File to write; without it the parts are listed.")
    parsed = vars(parser.parse_intermixed_args(expand_flags(parser, sys.argv[1:] if argv is None else argv)))
    checkpoint, out = parsed.pop("checkpoint"), parsed.pop("out")
    args = ExtractArgs(**parsed)
    check_one_of(args, "format", FORMATS)
    if bool(args.parts) != (out is not None):
        raise UserError("name a target and --parts, or neither to list the parts")
    if args.parts and not args.parts.strip(", "):
        raise UserError("--parts is empty; name parts with commas between them")
    return args, checkpoint, out
