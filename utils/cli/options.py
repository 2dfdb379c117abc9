"""The choices of a run, as dataclasses whose fields become options. The architecture is not among them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import HfArgumentParser

from model.checkpoints.backbones import Backbones
from model.config import NAMED_CONFIGS
from utils.runtime.errors import UserError

T = TypeVar("T")

PRECISIONS = ("fp32", "bf16", "fp16", "mixed")
OFFLOADS = ("none", "optimizer", "all")


def choice(default: Any, text: str) -> Any:
    """A field with a default and the line that `--help` prints."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainArgs:
    """Options of train.py. Where a named configuration prefers another default, PRESETS says so."""

    config: str = choice("native", "Named configuration: release, native or mini.")
    override: list[str] = choice([], "Fields of the configuration to change: field=value, e.g. pixel_image_size=512.")
    data: str = choice("data/DRSeg", "Folder of the data set.")
    dataset: str = choice("drseg", "Name of the data set's format.")
    polygons: str = choice("union", "A target's polygons: their union, or only the first (published reading).")
    skip_bad_records: bool = choice(False, "Count and list records that cannot be used instead of stopping.")
    run_dir: str = choice("runs/native", "Where checkpoints, logs and TensorBoard files go.")

    init_from: str | None = choice(None, "Start from a model folder (its configuration is used), or a file of parts.")
    llava: str = choice("PixDLM/weights/llava", "Folder of liuhaotian/llava-v1.6-vicuna-7b (Llama and tokenizer).")
    clip: str = choice("PixDLM/weights/clip", "CLIP: a transformers folder or file, or an open_clip file.")
    sam2: str = choice("PixDLM/weights/sam2/sam2.1_hiera_large.pt", "SAM2's .pt file.")
    tokenizer: str = choice("PixDLM/weights/llava", "Folder or file of the SentencePiece model.")
    from_scratch: bool = choice(False, "Read no published weights: every part starts fresh and trains.")
    fusion: str | None = choice(None, 'With --init-from a published folder: a file of fusion weights, or "neutral".')
    train_only: list[str] = choice([], "Train exactly these parts, e.g. fusion; everything else stays fixed.")
    train_parts: list[str] = choice([], "Parts to train beside the usual ones, e.g. clip sam2 language_model.")

    epochs: int = choice(10, "Passes over the training split.")
    steps_per_epoch: int | None = choice(None, "Optimiser steps that count as an epoch; default: one pass.")
    batch_size: int = choice(2, "Records a process and micro-step.")
    grad_accumulation: int = choice(10, "Micro-steps an optimiser step.")
    lr: float = choice(3e-4, "Peak learning rate.")
    beta1: float = choice(0.9, "AdamW's first beta.")
    beta2: float = choice(0.95, "AdamW's second beta.")
    weight_decay: float = choice(0.0, "AdamW's weight decay, on matrices only.")
    warmup_steps: int = choice(100, "Optimiser steps of linear warm-up; a linear decay to zero follows.")
    clip_norm: float = choice(1.0, "Gradients are clipped to this norm.")
    ce_weight: float = choice(1.0, "Weight of the answer's cross entropy.")
    bce_weight: float = choice(2.0, "Weight of the masks' binary cross entropy.")
    dice_weight: float = choice(0.5, "Weight of the masks' dice loss.")
    overlap_weight: float = choice(0.0, "Weight of the overlap loss between masks of one answer.")
    mask_side: int | None = choice(None, "Longest side in pixels of masks that are compared; default: the frame's.")
    mirror: bool = choice(False, "Mirror pictures at random, and swap left with right, top with bottom in questions.")
    grounding_weight: float = choice(0.0, "Weight of the grounding loss, which makes [SEG] states resemble the target.")

    precision: str = choice("bf16", "fp32, bf16, fp16, or mixed (fp32 weights, bf16 arithmetic).")
    zero_stage: int = choice(2, "DeepSpeed ZeRO stage, 0 to 3.")
    offload: str = choice("none", "none, optimizer (states on the CPU) or all (parameters too; stage 3).")
    lora_rank: int = choice(8, "LoRA rank; 0 for no adapters.")
    lora_alpha: float = choice(16.0, "LoRA alpha.")
    lora_dropout: float = choice(0.05, "LoRA dropout.")
    lora_targets: list[str] = choice(["q_proj", "v_proj"], "Names of the language model's layers that get adapters.")
    gradient_checkpointing: bool = choice(True, "Recompute the language model's layers in the backward pass.")

    workers: int = choice(4, "Processes that decode pictures, for each training process.")
    seed: int = choice(0, "Of weights, order and dropout.")
    validate_every: int = choice(1, "Epochs between validations; the last epoch is always validated.")
    eval_batch_size: int = choice(8, "Records a batch in validation.")
    log_every: int = choice(10, "Optimiser steps between log lines.")
    save_minutes: float = choice(15.0, "Minutes between states from which a run that is stopped goes on; 0 for none.")
    save_steps: int = choice(0, "Optimiser steps between such states; 0 for none. One is written after every epoch.")
    keep: int = choice(2, "How many of the last states stay on the disk until the run ends.")
    restart: bool = choice(False, "Train anew where the same command would go on, or has nothing left to do.")
    max_bad_steps: int = choice(0, "Batches and steps left out for a loss or gradient that is no number; then it ends.")
    timeout_minutes: float = choice(30.0, "A process that makes no progress for so long ends the run; 0 for never.")


PRESETS: dict[str, dict[str, Any]] = {
    "mini": {
        "run_dir": "runs/mini",
        "data": "data/DRSeg-mini",
        "tokenizer": "PixDLM/mini",
        "from_scratch": True,
        "epochs": 16,
        "validate_every": 4,  # and after the last one
        "batch_size": 24,
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
        "warmup_steps": 100,
        "log_every": 50,
        "eval_batch_size": 16,
    },
    "release": {"run_dir": "runs/release"},
}


def parser_of(kind: type) -> HfArgumentParser:
    """A parser of a dataclass's fields; by their whole names, as train.sh reads them too."""
    return HfArgumentParser(kind, allow_abbrev=False)


def parse(kind: type[T], argv: list[str] | None = None, presets: dict[str, Any] | None = None) -> T:
    """Options into a dataclass; an unknown or malformed option ends with argparse's message, status 2."""
    parser = parser_of(kind)
    parser.set_defaults(**(presets or {}))
    # not parse_args_into_dataclasses, which meets an unknown option with a traceback
    return kind(**vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))


def parse_with_pictures(kind: type[T], argv: list[str] | None = None) -> tuple[T, list[Path]]:
    """Options and, among them, the pictures that were named."""
    parser = parser_of(kind)
    parser.add_argument("pictures", nargs="+", type=Path, help="Photographs to ask about.")
    # intermixed: pictures may stand before, between and after the options
    parsed = vars(parser.parse_intermixed_args(sys.argv[1:] if argv is None else argv))
    pictures = parsed.pop("pictures")
    return kind(**parsed), pictures


def parse_train(argv: list[str] | None = None) -> TrainArgs:
    """train.py's options, with the defaults that the named configuration prefers, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    known = parse_known(TrainArgs, argv)
    presets = dict(PRESETS.get(known.config, {}))
    if known.config == "release" and known.train_only == ["fusion"]:
        # what the published checkpoint lacks, beside what it has
        presets["lora_rank"] = 0
        if not known.init_from:
            presets |= {"init_from": "PixDLM/weights/pixdlm", "fusion": "neutral"}
    args = parse(TrainArgs, argv, presets)
    check_train(args)
    return args


def parse_known(kind: type[T], argv: list[str] | None) -> T:
    """Only to learn the configuration's name before its defaults are set."""
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        argv = [a for a in argv if a not in ("-h", "--help")]
    parser = parser_of(kind)
    args, *_ = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    return args


def check_train(args: TrainArgs) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        UserError: naming the option, its value and what is allowed.
    """
    if args.config not in NAMED_CONFIGS:
        raise UserError(f"unknown configuration {args.config!r}; known are {', '.join(NAMED_CONFIGS)}")
    at_least(args, 1, "epochs", "batch_size", "grad_accumulation", "eval_batch_size", "log_every", "validate_every")
    at_least(args, 0, "seed", "warmup_steps", "lora_rank", "workers", "weight_decay", "lr", "clip_norm")
    at_least(args, 0, "ce_weight", "bce_weight", "dice_weight", "overlap_weight", "grounding_weight")
    if args.steps_per_epoch is not None:
        at_least(args, 1, "steps_per_epoch")
    if args.mask_side is not None:
        at_least(args, 16, "mask_side")
    at_least(args, 0, "save_minutes", "save_steps", "max_bad_steps", "timeout_minutes")
    at_least(args, 1, "keep")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 0 and less than 1")
    one_of(args, "precision", PRECISIONS)
    one_of(args, "offload", OFFLOADS)
    if args.train_only and args.train_parts:
        raise UserError("--train-only names all that trains; leave --train-parts out")
    if args.zero_stage not in (0, 1, 2, 3):
        raise UserError(f"--zero-stage is {args.zero_stage}; ZeRO has stages 0, 1, 2 and 3")
    if args.offload == "all" and args.zero_stage != 3:
        raise UserError(f"--offload all needs --zero-stage 3, which alone shards parameters; it is {args.zero_stage}")
    if args.offload == "optimizer" and args.zero_stage == 0:
        raise UserError("--offload optimizer needs --zero-stage 1, 2 or 3; it is 0")


def at_least(args: Any, least: float, *names: str) -> None:
    """Raises UserError where one of the options is less than `least`."""
    for name in names:
        if not getattr(args, name) >= least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least {least}")


def one_of(args: Any, name: str, known: tuple[str, ...]) -> None:
    """Raises UserError where the option is none of the known values."""
    if getattr(args, name) not in known:
        raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)!r}; known are {', '.join(known)}")


def as_dict(args: Any) -> dict[str, Any]:
    """The options by name, for logs and checkpoints."""
    return {f.name: getattr(args, f.name) for f in fields(args)}


@dataclass(kw_only=True)
class BackboneArgs:
    """Options for what a published folder does not hold."""

    clip: str | None = choice(None, "CLIP, where the model folder holds none; default: clip/ in or beside it.")
    sam2: str | None = choice(None, "SAM2's .pt, where the model folder holds none.")
    fusion: str | None = choice(None, 'Fusion weights of a published folder: a file, or "neutral" to run without.')

    @property
    def backbones(self) -> Backbones:
        """The files that were named."""
        return Backbones(self.clip, self.sam2, self.fusion)


@dataclass
class EvalArgs(BackboneArgs):
    """Options of eval.py. The architecture comes from --model alone."""

    model: str = choice("PixDLM/mini", "Model folder, e.g. runs/mini/best.")
    data: str = choice("data/DRSeg-mini", "Folder of the data set.")
    split: str = choice("test", "Split to evaluate.")
    out: str = choice("runs/eval", "Where metrics.json, predictions.json and overlays go.")
    dataset: str = choice("drseg", "Name of the data set's format.")
    polygons: str = choice("union", "A target's polygons: their union, or only the first (published reading).")
    skip_bad_records: bool = choice(False, "Count and list records that cannot be used instead of stopping.")
    shuffle_questions: int | None = choice(None, "Control: swap the questions between records, with this seed.")
    swap_image_tokens: bool = choice(False, "Control: the language model is shown another picture of the batch.")
    overlays: int = choice(0, "How many pictures of frame, prediction and ground truth to draw.")
    limit: int | None = choice(None, "Evaluate the first N records only; named in the results.")
    batch_size: int = choice(8, "Records a batch; records of one picture stay together.")
    device: str = choice("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = choice("auto", "auto (bf16 on a GPU, fp32 on a CPU), fp32, bf16 or fp16.")
    workers: int = choice(2, "Processes that decode pictures, for each evaluating process.")
    shard: bool = choice(False, "Part the weights over the processes (ZeRO-3): for a model that no GPU holds.")
    offload: bool = choice(False, "With --shard: each part stays in the CPU's memory until it is needed.")
    threads: int = choice(1, "CPU threads of a process; another number may change last digits. NPROC is faster.")


@dataclass
class InferArgs(BackboneArgs):
    """Options of infer.py beside the pictures."""

    ask: str = choice("", "The question.")
    model: str = choice("PixDLM/mini", "Model folder.")
    out: str = choice("runs/infer", "Where masks, overlays and answers.jsonl go.")
    max_new_tokens: int = choice(64, "The answer is cut after so many tokens.")
    device: str = choice("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = choice("auto", "auto (bf16 on a GPU, fp32 on a CPU), fp32, bf16 or fp16.")


def parse_eval(argv: list[str] | None = None) -> EvalArgs:
    """eval.py's options, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args = parse(EvalArgs, argv)
    at_least(args, 1, "batch_size", "threads")
    at_least(args, 0, "workers", "overlays")
    if args.limit is not None:
        at_least(args, 1, "limit")
    if args.offload and not args.shard:
        raise UserError("--offload needs --shard, which parts the weights")
    if args.shard and ":" in args.device:
        raise UserError(f"--device {args.device} does not go with --shard; choose the GPU by CUDA_VISIBLE_DEVICES")
    return args


def parse_infer(argv: list[str] | None = None) -> tuple[InferArgs, list[Path]]:
    """infer.py's options, checked, and the pictures.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args, pictures = parse_with_pictures(InferArgs, argv)
    if not args.ask.strip():
        raise UserError('--ask is empty; give the question, e.g. --ask "Which vehicle blocks the crossing?"')
    at_least(args, 1, "max_new_tokens")
    return args, pictures


def inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type that weights and pixels take.

    Raises:
        UserError: no such precision.
    """
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    types["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if precision not in types:
        raise UserError(f"--precision is {precision!r}; known are {', '.join(types)}")
    return types[precision]
