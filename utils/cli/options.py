"""The choices of a run, as dataclasses whose fields become options. The architecture is not among them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, TypeVar

from transformers import HfArgumentParser

from model.checkpoints.backbones import Backbones
from utils.runtime.errors import UserError

T = TypeVar("T")


def option(default: Any, text: str) -> Any:
    """A field with a default and the line that `--help` prints."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def parser_of(kind: type) -> HfArgumentParser:
    """A parser of a dataclass's fields; by their whole names, as train.sh reads them too."""
    return HfArgumentParser(kind, allow_abbrev=False)


def parse(kind: type[T], argv: list[str] | None = None, presets: dict[str, Any] | None = None) -> T:
    """Options into a dataclass; an unknown or malformed option ends with argparse's message, status 2."""
    parser = parser_of(kind)
    parser.set_defaults(**(presets or {}))
    # not parse_args_into_dataclasses, which meets an unknown option with a traceback
    return kind(**vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))


def check_at_least(args: Any, least: float, *names: str) -> None:
    """Raises UserError where one of the options is less than `least`."""
    for name in names:
        if not getattr(args, name) >= least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least {least}")


def check_one_of(args: Any, name: str, known: tuple[str, ...]) -> None:
    """Raises UserError where the option is none of the known values."""
    if getattr(args, name) not in known:
        raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)!r}; known are {', '.join(known)}")


@dataclass(kw_only=True)
class BackboneArgs:
    """Options for what a published folder does not hold."""

    clip: str | None = option(None, "CLIP, where the model folder holds none; default: clip/ in or beside it.")
    sam2: str | None = option(None, "SAM2's .pt, where the model folder holds none.")
    fusion: str | None = option(None, 'Fusion weights of a published folder: a file, or "neutral" to run without.')

    @property
    def backbones(self) -> Backbones:
        """The files that were named."""
        return Backbones(self.clip, self.sam2, self.fusion)
