"""A checkpoint to one folder that loads anywhere: `bash merge.sh CHECKPOINT OUT`.

CHECKPOINT is a run's `best/` or `last/`, a DeepSpeed checkpoint, a ZeRO-to-fp32 result or the published
folder. Adapters are merged by peft with the settings that the checkpoint holds.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from model.lora import merge_lora
from model.pretrained import Backbones, load_pretrained
from utils.args import parse_merge
from utils.checkpoint import load_tokenizer
from utils.errors import UserError, run_main
from utils.export import BACKBONES, TRAINING_FILE, check_target, save_own, save_published
from utils.logs import peak_memory_gib, start_logging

log = logging.getLogger("merge")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main() -> None:
    args, checkpoint, out = parse_merge()
    start_logging()
    # The tokenizer before the model: what is missing is told before gigabytes are read.
    tokenizer, config = load_tokenizer(checkpoint)
    check_target(out, args.overwrite, 0)
    dtype = DTYPES[args.precision]
    model = load_pretrained(checkpoint, dtype, Backbones(args.clip, args.sam2, args.fusion))
    try:
        merged = merge_lora(model.language_model)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    model.config.lora = None
    model.config.dtype = dtype
    size = sum(tensor.nbytes for name, tensor in model.state_dict().items() if keeps(name, args.without_backbones))
    check_target(out, args.overwrite, size)
    training = read_training(checkpoint)
    if args.format == "published":
        save_published(out, model, tokenizer, training)
    else:
        save_own(out, model, tokenizer, training, args.without_backbones)
    log.info(
        "%s: %.2f GiB in %s, %d matrices merged; at most %.2f GiB of memory, %.2f times the model",
        *(out, size / 2**30, args.precision, merged, peak_memory_gib(), peak_memory_gib() * 2**30 / size),
    )


def keeps(name: str, without_backbones: bool) -> bool:
    return not (without_backbones and name.startswith(BACKBONES))


def read_training(checkpoint: Path) -> dict:
    """The record of the run that is beside the weights, or nothing."""
    file = checkpoint / TRAINING_FILE
    return json.loads(file.read_text()) if file.is_file() else {}


if __name__ == "__main__":
    run_main(main)
