"""Named parts of a checkpoint in a file of their own: `python extract.py CHECKPOINT OUT --parts fusion,lora`.

`train.py --init-from OUT` starts from such a file. Without OUT and --parts the parts are listed.
`--format published` writes the fusion as the published training code's dictionary of `align_stages`.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoints.backbones import NEUTRAL_KEY
from model.checkpoints.export import check_target, published_fusion
from model.checkpoints.layouts import load_config, renamed_shapes, renamed_tensors
from model.checkpoints.load import LORA_KEY
from model.config import PixDLMConfig
from model.parts import check_parts, part_of
from utils.cli.export_options import parse_extract
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import atomic_file, write_errors_as_user_error
from utils.runtime.logs import start_logging
from utils.runtime.paths import is_folder

log = logging.getLogger("extract")


def main() -> None:
    args, checkpoint, out = parse_extract()
    start_logging()
    config = load_config(checkpoint)
    if out is None:
        list_parts(checkpoint, config)
        return
    wanted = {part.strip() for part in args.parts.split(",") if part.strip()}
    try:
        check_parts(wanted)
    except ValueError as error:
        raise UserError(f"--parts: {error}") from error
    if args.format == "published" and wanted != {"fusion"}:
        raise UserError("--format published is the dictionary of align_stages, which is --parts fusion alone")
    neutral = "fusion" in wanted and config.neutral_fusion
    if neutral and args.format == "published":
        raise UserError(f"{checkpoint}: its fusion is the neutral one, which holds nothing to pass on as published")
    check_target(out, checkpoint, args.overwrite)
    if is_folder(out):
        raise UserError(f"{out}: is a folder; name a file to write, such as {out / 'parts.safetensors'}")
    named = renamed_tensors(checkpoint, config)
    tensors = {name: t.clone().contiguous() for name, t in named if part_of_tensor(name, checkpoint) in wanted}
    absent = wanted - {part_of(name) for name in tensors}
    if absent:
        raise UserError(f"{checkpoint}: holds no {', '.join(sorted(absent))}")
    check_target(out, checkpoint, args.overwrite, sum(tensor.nbytes for tensor in tensors.values()))
    metadata = {"format": "pt", LORA_KEY: json.dumps(config.lora if "lora" in wanted else None)}
    write(out, tensors, args.format, {**metadata, NEUTRAL_KEY: json.dumps(neutral)})
    log.info("%s: %d tensors of %s", out, len(tensors), ", ".join(sorted(wanted)))


def list_parts(checkpoint: Path, config: PixDLMConfig) -> None:
    """Print a line for each part: its tensors and parameters."""
    counts: dict[str, tuple[int, int]] = {}
    for name, shape in renamed_shapes(checkpoint, config):
        part = part_of_tensor(name, checkpoint)
        tensors, parameters = counts.get(part, (0, 0))
        counts[part] = tensors + 1, parameters + math.prod(shape)
    for part, (tensors, parameters) in counts.items():
        print(f"{part:<16} {tensors:>5} tensors {parameters:>16,} parameters")


def part_of_tensor(name: str, checkpoint: Path) -> str:
    """The part of a tensor. Raises UserError where it belongs to none."""
    try:
        return part_of(name)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}") from error


def write(out: Path, tensors: dict[str, Tensor], kind: str, metadata: dict[str, str]) -> None:
    """Write the file atomically; its metadata holds the adapters' settings and whether the fusion is neutral."""
    with write_errors_as_user_error(out), atomic_file(out) as beside:
        if kind == "published":
            torch.save(published_fusion(tensors), beside)
        else:
            save_file(tensors, beside, metadata=metadata)


if __name__ == "__main__":
    run_main(main)
