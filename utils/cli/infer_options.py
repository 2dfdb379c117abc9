"""Options of infer.py."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from model.language.answers import MAX_NEW_TOKENS
from model.language.tokens import checked_question
from utils.cli.options import BackboneArgs, T, check_at_least, option, parser_of
from utils.runtime.errors import UserError
from utils.runtime.text import lone_surrogate


def parse_with_pictures(kind: type[T], argv: list[str] | None = None) -> tuple[T, list[Path]]:
    """Parse options with pictures between them."""
    parser = parser_of(kind)
    parser.add_argument("pictures", nargs="+", type=Path, help="Photographs to ask about.")
    # intermixed: pictures may stand before, between and after the options
    parsed = vars(parser.parse_intermixed_args(sys.argv[1:] if argv is None else argv))
    pictures = parsed.pop("pictures")
    return kind(**parsed), pictures


def in_utf8(argument: str) -> str:
    """An argument that was typed in UTF-8 where the system's settings name another encoding (LC_ALL=C); others stay."""
    if not lone_surrogate(argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


@dataclass
class InferArgs(BackboneArgs):
    """Options of infer.py beside the pictures."""

    ask: str = option("", "The question.")
    model: str = option("PixDLM/mini", "Model folder.")
    out: str = option("runs/infer", "Where masks, overlays and answers.jsonl go.")
    max_new_tokens: int = option(MAX_NEW_TOKENS, "Longest answer in tokens; longer ones are truncated.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("auto", "auto (bf16 on a GPU, fp32 on a CPU), fp32, bf16 or fp16.")


def parse_infer(argv: list[str] | None = None) -> tuple[InferArgs, list[Path]]:
    """infer.py's options, checked, and the pictures.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args, pictures = parse_with_pictures(InferArgs, argv)
    args.ask = in_utf8(args.ask)
    if not args.ask.strip():
        raise UserError('--ask is empty; give the question, e.g. --ask "Which vehicle blocks the crossing?"')
    try:
        checked_question(args.ask)
    except ValueError as error:
        raise UserError(f"--ask: {error}") from error
    check_at_least(args, 1, "max_new_tokens")
    return args, pictures
