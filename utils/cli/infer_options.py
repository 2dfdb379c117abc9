"""Options of infer.py."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from model.language.tokens import checked_question
from utils.cli.options import InferenceArgs, check_at_least, option, parser_of
from utils.inference.output import STDOUT
from utils.inference.results import FILES
from utils.runtime.errors import UserError
from utils.runtime.text import lone_surrogate

OUT = "runs/infer"


def in_utf8(argument: str) -> str:
    """An argument that was typed in UTF-8 where the system's settings name another encoding (LC_ALL=C); others stay."""
    if not lone_surrogate(argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


@dataclass
class InferArgs(InferenceArgs):
    """Options of infer.py; `parse_infer` adds `pictures`, `ask`, which may stand several times, and `resume`, which
    takes no value, since a picture may follow it."""

    model: str = option("PixDLM/mini", "Model folder, or owner/name on the hub.")
    out: str | None = option(None, f"Folder of masks, overlays and answers.jsonl; default: {OUT}, none with --json -.")
    json: str | None = option(None, '"-": lines of JSON to stdout, in place of words.')
    write: str = option(",".join(FILES), 'Files of each answer beside its line, or "none"; geojson of GeoTIFFs alone.')
    coco: str | None = option(None, "Write all answers to this COCO file too, for CVAT, Label Studio, Roboflow.")
    tolerance: float = option(0.0, "Pixels by which polygons may leave masks to have fewer corners; 0 is exact.")
    every: float = option(1.0, "Seconds between the frames of a video that are asked about; 0 for each frame.")
    batch_size: int = option(8, "Questions that are answered at once, and pictures that are encoded at once.")
    workers: int = option(1, "Processes that write results beside the model; 0 for none.")
    max_new_tokens: int = option(256, "Longest answer in tokens; longer ones are truncated.")
    resume: bool = field(default=False, init=False)
    ask: list[str] = field(default_factory=list, init=False)
    pictures: list[str] = field(default_factory=list, init=False)

    @property
    def folder(self) -> Path | None:
        """Of the results."""
        if self.out is None and self.json == STDOUT:
            return None
        return Path(self.out or OUT)

    @property
    def files(self) -> frozenset[str]:
        """What is written of each answer beside its line."""
        return frozenset() if self.write == "none" else frozenset(self.write.split(","))


def parse_infer(argv: list[str] | None = None) -> InferArgs:
    """infer.py's options, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    parser = parser_of(InferArgs)
    parser.add_argument("--ask", action="append", default=[], help="A question about every picture; may be repeated.")
    parser.add_argument("--resume", action="store_true", help="Leave out what answers.jsonl in --out answers already.")
    parser.add_argument(
        "pictures",
        nargs="+",
        help='Pictures, folders, "patterns*", videos, or .jsonl files of {"image": …, "question": …}.',
    )
    # intermixed: pictures may stand before, between and after the options
    given = vars(parser.parse_intermixed_args(sys.argv[1:] if argv is None else argv))
    added = {name: given.pop(name) for name in ("ask", "pictures", "resume")}
    args = InferArgs(**given)
    args.pictures, args.resume = added["pictures"], added["resume"]
    args.ask = [_checked(in_utf8(question)) for question in added["ask"]]
    _check(args)
    return args


def _checked(question: str) -> str:
    """A question that can be asked.

    Raises:
        UserError: it is empty, or has what no question may have.
    """
    if not question.strip():
        raise UserError('--ask is empty; give the question, e.g. --ask "Which vehicle blocks the crossing?"')
    try:
        checked_question(question)
    except ValueError as error:
        raise UserError(f"--ask: {error}") from error
    return question


def _check(args: InferArgs) -> None:
    """Raise UserError where an option has a value that cannot be."""
    check_at_least(args, 1, "max_new_tokens", "batch_size")
    check_at_least(args, 0, "workers", "every", "tolerance")
    for name in ("every", "tolerance"):
        if math.isinf(getattr(args, name)):
            raise UserError(f"--{name} is {getattr(args, name)}; it must be finite")
    if args.json not in (None, STDOUT):
        raise UserError(f"--json is {args.json!r}; it takes - alone, for stdout. A file of lines is in --out")
    if args.files - FILES.keys():
        raise UserError(f'--write is {args.write!r}; known are {", ".join(FILES)}, or "none"')
    if args.resume and args.folder is None:
        raise UserError("--resume goes on in a folder; name it by --out")
