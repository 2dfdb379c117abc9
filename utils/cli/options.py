"""Command-line options as dataclasses. The architecture is no option: it is read from the checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, TypeVar

from transformers import HfArgumentParser

from model.checkpoints.backbones import Backbones
from utils.runtime.errors import UserError

T = TypeVar("T")


def option(default: Any, text: str, *aliases: str) -> Any:
    """A field with a default and the line that `--help` prints; other names of it after those."""
    metadata = {"help": text, "aliases": list(aliases)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parser_of(kind: type) -> HfArgumentParser:
    """A parser of a dataclass's fields; no abbreviations, since train.sh reads whole names."""
    return HfArgumentParser(kind, allow_abbrev=False)


def parse(kind: type[T], argv: list[str] | None = None, presets: dict[str, Any] | None = None) -> T:
    """Parse options into a dataclass; an unknown or malformed one ends the process with status 2.

    Args:
        kind: the dataclass.
        argv: default: the command line's.
        presets: defaults that differ from the dataclass's.
    """
    parser = parser_of(kind)
    parser.set_defaults(**(presets or {}))
    # not parse_args_into_dataclasses, which answers an unknown option with a traceback
    return kind(**vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))


def check_at_least(args: Any, least: float, *names: str) -> None:
    """Raise UserError where one of the options is less than `least`."""
    for name in names:
        if not getattr(args, name) >= least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least {least}")


def check_one_of(args: Any, name: str, known: tuple[str, ...]) -> None:
    """Raise UserError where the option is none of the known values."""
    if getattr(args, name) not in known:
        raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)!r}; known are {', '.join(known)}")


@dataclass(kw_only=True)
class BackboneArgs:
    """Options that name the files a published folder lacks."""

    clip: str | None = option(None, "CLIP, where the model folder holds none; default: clip/ in or beside it.")
    sam2: str | None = option(None, "SAM2's .pt, where the model folder holds none.")
    fusion: str | None = option(None, 'Fusion weights of a published folder: a file, or "neutral" to run without.')

    @property
    def backbones(self) -> Backbones:
        """The files that the options name."""
        return Backbones(self.clip, self.sam2, self.fusion)


@dataclass(kw_only=True)
class InferenceArgs(BackboneArgs):
    """Options that say where a model runs and in what numbers."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: str = option("auto", "auto (bf16 on a GPU, fp32 elsewhere), fp32, bf16 or fp16.", "--dtype")
    load_in: str | None = option(
        None, "Quantise the language model's layers, for small machines: 8bit or 4bit (bitsandbytes), int8 (CPU)."
    )  # fmt: skip
