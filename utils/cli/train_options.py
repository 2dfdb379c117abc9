"""Options of train.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from model.language.answers import ANSWER_FORMATS
from model.presets import TRAINED_CONFIGS
from utils.cli.options import T, check_at_least, check_one_of, option, parse, parser_of
from utils.runtime.errors import UserError
from utils.runtime.files import check_utf8_path
from utils.runtime.precision import PRECISIONS

OFFLOADS = ("none", "optimizer", "all")
LEAST_WHERE_GIVEN = {"batch_size": 1, "global_batch": 1, "steps_per_epoch": 1, "samples_per_epoch": 1,
                     "warmup_steps": 0, "mask_side": 16}  # fmt: skip
PUBLISHED_EPOCH = 200 * 2 * 10 * 8  # records: steps, batch, micro-steps, GPUs
PRESETS: dict[str, dict[str, Any]] = {
    "mini": {
        "run_dir": "runs/mini",
        "data": "data/DRSeg-mini",
        "tokenizer": "PixDLM/mini",
        "from_scratch": True,
        "epochs": 16,
        "validate_every": 4,  # and after the last one
        "global_batch": 24,
        "grad_accumulation": 1,
        "lr": 1.1e-3,
        "weight_decay": 0.05,
        "ce_weight": 0.05,  # the text's loss is large at first, and gradients are clipped together
        "bce_weight": 0.5,
        "dice_weight": 2.0,
        "mask_side": 160,
        "mirror": True,
        "grounding_weight": 0.5,
        "precision": "fp32",
        "zero_stage": 0,
        "lora_rank": 0,
        "gradient_checkpointing": False,
        "workers": 0,  # on two cores one more process makes the threads of every operation wait
        "log_every": 50,
        "eval_batch_size": 16,
    },
    "native": {"samples_per_epoch": PUBLISHED_EPOCH},
    "release": {"run_dir": "runs/release", "samples_per_epoch": PUBLISHED_EPOCH},
}


@dataclass
class TrainArgs:
    """Options of train.py. PRESETS holds the defaults that a named configuration changes."""

    config: str = option("native", "Named configuration: release, native or mini.")
    override: list[str] = option([], "Fields of the configuration to change: field=value, e.g. pixel_image_size=512.")
    data: str = option(
        "data/DRSeg", "Folder of the data set; with --train NAME=FOLDER,NAME=FOLDER, or a YAML file of such lines."
    )
    dataset: str = option("drseg", "Name of the data set's format.")
    train: str | None = option(
        None, "Data sets to train on together and their shares, e.g. drseg:4,refcoco:2,muse:1 (NAME@SPLIT for another "
        "split than train)."
    )  # fmt: skip
    validate: str | None = option(
        None, "With --train: data sets to validate on, e.g. drseg,refcoco@testA; default: val of those trained on. The "
        "best checkpoint is the one with the best mean."
    )  # fmt: skip
    one_source_batches: bool = option(
        False, "With --train: all records of a micro-step are of one data set, so that answers are of like length."
    )
    polygons: str = option("union", "A target's polygons: their union, or only the first (published reading).")
    orientation: str = option("check", "Orientation tags: apply them, read as stored, or check (refuse where open).")
    skip_bad_records: bool = option(False, "Count and list records that cannot be used instead of stopping.")
    run_dir: str = option("runs/native", "Where checkpoints, logs and TensorBoard files go.")

    init_from: str | None = option(None, "Start from a model folder (its configuration is used), or a file of parts.")
    llava: str = option("PixDLM/weights/llava", "Folder of liuhaotian/llava-v1.6-vicuna-7b (Llama and tokenizer).")
    clip: str = option("PixDLM/weights/clip", "CLIP: a transformers folder or file, or an open_clip file.")
    sam2: str = option("PixDLM/weights/sam2/sam2.1_hiera_large.pt", "SAM2's .pt file.")
    tokenizer: str = option("PixDLM/weights/llava", "Folder or file of the SentencePiece model.")
    from_scratch: bool = option(False, "Read no published weights: every part starts fresh and trains.")
    fusion: str | None = option(None, 'With --init-from a published folder: a file of fusion weights, or "neutral".')
    train_only: list[str] = option([], "Train exactly these parts, e.g. fusion; everything else is frozen.")
    train_parts: list[str] = option([], "Parts to train beside the usual ones, e.g. clip sam2 language_model.")

    epochs: int = option(10, "Passes over the training split.")
    steps_per_epoch: int | None = option(None, "Optimiser steps that count as an epoch; default: one pass.")
    samples_per_epoch: int | None = option(
        None, "Records that count as an epoch, whatever the number of processes; native and release: as published."
    )
    batch_size: int | None = option(None, "Records a process and micro-step; default: 2, or from --global-batch.")
    grad_accumulation: int = option(10, "Micro-steps an optimiser step.")
    global_batch: int | None = option(None, "Records an optimiser step of all processes; sets --batch-size. mini: 24.")
    lr: float = option(3e-4, "Peak learning rate.")
    beta1: float = option(0.9, "AdamW's first beta.")
    beta2: float = option(0.95, "AdamW's second beta.")
    weight_decay: float = option(0.0, "AdamW's weight decay, on matrices only.")
    warmup_steps: int | None = option(
        None, "Optimiser steps of linear warm-up, then a linear decay to zero; default: 100, at most a tenth of all."
    )
    clip_norm: float = option(1.0, "Gradients are clipped to this norm.")
    targets: str | None = option(
        None, "What of an answer is learnt: seg ([SEG] groups; published), answer or reasoning; default: the model's."
    )
    ce_weight: float = option(1.0, "Weight of the cross entropy of [SEG] tokens and the answer's end.")
    text_weight: float = option(1.0, "With --targets answer or reasoning: weight of the words' cross entropy.")
    words_dropout: float = option(
        0.0, "With --targets answer or reasoning: share of prompts without words before the groups, so that masks do "
        "not rest on words alone."
    )  # fmt: skip
    bce_weight: float = option(2.0, "Weight of the masks' binary cross entropy.")
    dice_weight: float = option(0.5, "Weight of the masks' dice loss.")
    overlap_weight: float = option(0.0, "Weight of the overlap loss between masks of one answer.")
    mask_side: int | None = option(
        None, "Longer side in pixels at which the loss compares masks; default: the frame's."
    )
    mirror: bool = option(False, "Flip pictures at random, and swap left and right, top and bottom in questions.")
    grounding_weight: float = option(0.0, "Weight of the grounding loss, which makes [SEG] states resemble the target.")

    precision: str = option("bf16", "fp32, bf16, fp16, or mixed (fp32 weights, bf16 arithmetic).")
    zero_stage: int = option(2, "DeepSpeed ZeRO stage, 0 to 3.")
    offload: str = option("none", "none, optimizer (states on the CPU) or all (parameters too; stage 3).")
    lora_rank: int = option(8, "LoRA rank; 0 for no adapters.")
    lora_alpha: float = option(16.0, "LoRA alpha.")
    lora_dropout: float = option(0.05, "LoRA dropout.")
    lora_targets: list[str] = option(["q_proj", "v_proj"], "Names of the language model's layers that get adapters.")
    gradient_checkpointing: bool = option(True, "Recompute the language model's layers in the backward pass.")

    workers: int = option(4, "Processes that decode pictures, for each training process.")
    seed: int = option(0, "Seed of weights, order and dropout.")
    validate_every: int = option(1, "Epochs between validations; the last epoch is always validated.")
    eval_batch_size: int = option(8, "Records per batch in validation.")
    log_every: int = option(10, "Optimiser steps between log lines.")
    save_minutes: float = option(15.0, "Minutes between saved states, from which a stopped run resumes; 0 for none.")
    save_steps: int = option(0, "Optimiser steps between saved states; 0 for none. One is saved after every epoch too.")
    keep: int = option(2, "Number of latest states kept on disk until the run ends.")
    restart: bool = option(False, "Start over where the same command would resume or has nothing left to do.")
    max_bad_steps: int = option(0, "Batches and steps skipped for a non-finite loss or gradient before the run fails.")
    timeout_minutes: float = option(30.0, "Minutes without progress after which a process ends the run; 0 for never.")


def parse_train(argv: list[str] | None = None) -> TrainArgs:
    """train.py's options, with the defaults that the named configuration prefers, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    known = parse_known(TrainArgs, argv)
    presets = dict(PRESETS.get(known.config, {}))
    if known.config == "release" and known.train_only == ["fusion"]:
        # trains the part that the published checkpoint lacks
        presets["lora_rank"] = 0
        if not known.init_from:
            presets |= {"init_from": "PixDLM/weights/pixdlm", "fusion": "neutral"}
    if known.batch_size is not None:
        presets.pop("global_batch", None)  # one sets the other
    args = parse(TrainArgs, argv, presets)
    check_train(args)
    return args


def parse_known(kind: type[T], argv: list[str] | None) -> T:
    """Parse the known options, to learn the configuration's name before its defaults are set."""
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        argv = [a for a in argv if a not in ("-h", "--help")]
    parser = parser_of(kind)
    args, *_ = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    return args


def check_train(args: TrainArgs) -> None:
    """Check the options before anything is loaded.

    Raises:
        UserError: naming the option, its value and what is allowed.
    """
    if args.config not in TRAINED_CONFIGS:
        raise UserError(f"unknown configuration {args.config!r}; known are {', '.join(TRAINED_CONFIGS)}")
    check_at_least(args, 1, "epochs", "grad_accumulation", "eval_batch_size", "log_every", "validate_every", "keep")
    for name, least in LEAST_WHERE_GIVEN.items():
        if getattr(args, name) is not None:
            check_at_least(args, least, name)
    if not args.train and (args.validate or args.one_source_batches):
        raise UserError(
            "--validate and --one-source-batches go with --train, which names the data sets; leave them out"
        )
    if args.batch_size is not None and args.global_batch is not None:
        raise UserError("--batch-size and --global-batch set the same; leave one of both out")
    check_at_least(args, 0, "seed", "lora_rank", "workers", "weight_decay", "lr", "clip_norm")
    if args.targets is not None:
        check_one_of(args, "targets", ANSWER_FORMATS)
    check_at_least(
        args, 0, "ce_weight", "text_weight", "bce_weight", "dice_weight", "overlap_weight", "grounding_weight"
    )
    if not 0 <= args.words_dropout <= 1:
        raise UserError(f"--words-dropout is {args.words_dropout}; it is a share, from 0 to 1")
    check_at_least(args, 0, "save_minutes", "save_steps", "max_bad_steps", "timeout_minutes")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 0 and less than 1")
    check_utf8_path(args.run_dir, "--run-dir")
    check_one_of(args, "precision", PRECISIONS)
    check_one_of(args, "offload", OFFLOADS)
    if args.train_only and args.train_parts:
        raise UserError("--train-only names all that trains; leave --train-parts out")
    if args.zero_stage not in (0, 1, 2, 3):
        raise UserError(f"--zero-stage is {args.zero_stage}; ZeRO has stages 0, 1, 2 and 3")
    if args.precision == "bf16" and args.zero_stage < 2 and args.grad_accumulation > 1:
        raise UserError(
            f"--precision bf16 with --zero-stage {args.zero_stage} adds micro-steps up in bfloat16, which loses small "
            "gradients; use --zero-stage 2 or 3, --precision mixed, or --grad-accumulation 1"
        )
    if args.offload == "all" and args.zero_stage != 3:
        raise UserError(f"--offload all needs --zero-stage 3, which alone shards parameters; it is {args.zero_stage}")
    if args.offload == "optimizer" and args.zero_stage == 0:
        raise UserError("--offload optimizer needs --zero-stage 1, 2 or 3; it is 0")
