"""A checkpoint to one folder that loads anywhere: `bash merge.sh CHECKPOINT OUT`.

CHECKPOINT is a run's `best/` or `last/`, a DeepSpeed checkpoint, a ZeRO-to-fp32 result or the published
folder. Adapters are merged by peft with the settings that the checkpoint holds.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from model.checkpoints.backbones import weight_hashes
from model.checkpoints.export import BACKBONES, check_target, save_own, save_published
from model.checkpoints.load import load_pretrained, load_tokenizer, read_training
from model.config import PixDLMConfig
from model.lora import merge_lora
from model.pixdlm import PixDLMForCausalLM
from utils.cli.export_options import MergeArgs, parse_merge
from utils.runtime.errors import UserError, run_main
from utils.runtime.json_files import read_json
from utils.runtime.logs import peak_process_gib, start_logging
from utils.runtime.precision import inference_dtype

log = logging.getLogger("merge")


def main() -> None:
    args, checkpoint, out = parse_merge()
    start_logging()
    # Small files first, so that their errors are reported before gigabytes are read.
    check_target(out, checkpoint, args.overwrite)
    tokenizer, config = load_tokenizer(checkpoint)
    training = read_training(checkpoint)
    if args.metrics:
        training = {**training, "evaluation": evaluation_of(checkpoint, config, args)}
    if args.without_backbones:
        check_backbones_are_stock(checkpoint, training)
    dtype = inference_dtype(args.precision, torch.device("cpu"))
    progress = partial(tqdm, desc="reading", unit="tensor", leave=False)
    model = load_pretrained(PixDLMForCausalLM, checkpoint, dtype, args.backbones, progress, config)
    try:
        merged = merge_lora(model.language_model)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    model.config.lora = None
    model.config.dtype = dtype
    left_out = BACKBONES if args.without_backbones else ()
    size = sum(tensor.nbytes for name, tensor in model.state_dict().items() if not name.startswith(left_out))
    check_target(out, checkpoint, args.overwrite, size)
    log.info("writing %.2f GiB to %s", size / 2**30, out)
    if args.format == "published":
        save_published(out, model, tokenizer, training)
    else:
        save_own(out, model, tokenizer, training, args.without_backbones)
    peak = peak_process_gib()
    log.info(
        "%s: %.2f GiB in %s, %d matrices merged; at most %.2f GiB of memory, %.2f times the model",
        *(out, size / 2**30, args.precision, merged, peak, peak * 2**30 / size),
    )


def evaluation_of(checkpoint: Path, config: PixDLMConfig, args: MergeArgs) -> dict[str, Any]:
    """The content of --metrics.

    Raises:
        UserError: it cannot be read, or is of other weights.
    """
    metrics = read_json(Path(args.metrics), "name the metrics.json that eval.py wrote")
    if not isinstance(metrics, dict) or not {"overall", "data", "protocol", "checkpoint"} <= metrics.keys():
        raise UserError(f"--metrics {args.metrics}: no metrics.json of eval.py")
    if metrics["checkpoint"] != weight_hashes(checkpoint, config, args.backbones):
        raise UserError(
            f"--metrics {args.metrics}: the evaluated weights are not those of {checkpoint}; evaluate these with "
            "eval.py"
        )
    return metrics


def check_backbones_are_stock(checkpoint: Path, training: dict) -> None:
    """Raises UserError where CLIP or SAM2 were trained, so that no other file holds them."""
    settings = training.get("settings") or {}
    trained = {"clip", "sam2"} & {*settings.get("train_parts", []), *settings.get("train_only", [])}
    if trained or settings.get("from_scratch"):
        raise UserError(
            f"{checkpoint}: {' and '.join(sorted(trained)) or 'CLIP and SAM2'} were trained in this run, so no other "
            "file has them; merge without --without-backbones"
        )


if __name__ == "__main__":
    run_main(main)
