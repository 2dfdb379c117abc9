"""A plan of training: memory a GPU, communication and time, from counted sizes (`benchmark.py --plan`).

Parameters, operations and activations are counted on the model itself, on the meta device. From them follows what
DeepSpeed stores and sends at each ZeRO stage; `tests/utils/benchmark/test_plan.py` checks it on two processes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from utils.benchmark.inference_memory import inference_report
from utils.benchmark.on_meta import StepCount, count_step, meta_batch, meta_model
from utils.benchmark.parts import prepare
from utils.benchmark.results import aligned
from utils.benchmark.setup import set_up, train_args
from utils.cli.benchmark_options import BenchmarkArgs
from utils.cli.train_options import PUBLISHED_EPOCH
from utils.download.sources import DRSEG_RECORDS
from utils.runtime.files import write_json
from utils.runtime.precision import DTYPES
from utils.training.setup import loss_weights

BATCHES = (1, 2, 4, 8)  # records per GPU, for which memory is reported
FP32 = 4
GIB = 2**30

# DeepSpeed's defaults, which utils/training/engine.py leaves as they are; in elements.
REDUCE_BUCKET = 500_000_000
MAX_LIVE = 1_000_000_000  # parameters that stage 3 keeps gathered at a time
PERSISTENT = 100_000  # a smaller parameter stays gathered

PUBLISHED_SAMPLES = 10 * PUBLISHED_EPOCH  # what train.sh runs by default, on any number of GPUs


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model: all, trained ones, those in tensors so small that stage 3 does not shard them; and the
    bytes of one (`width`)."""

    total: int
    trained: int
    small: int
    width: int


@dataclass(frozen=True)
class MemoryBreakdown:
    """Bytes on a GPU beside activations. Gradients are accumulated over micro-steps; the optimiser holds two moments,
    and float32 master weights where weights are sharded or not float32; buffers hold gradients in transfer and
    gathered parameters."""

    weights: int
    gradients: int
    optimiser: int
    buffers: int


def sizes_of(model: nn.Module, dtype: torch.dtype) -> Sizes:
    """Parameter counts of a model whose trained parameters are set."""
    counts = [(one.numel(), one.requires_grad) for one in model.parameters()]
    total, trained = sum(count for count, _ in counts), sum(count for count, trains in counts if trains)
    return Sizes(total, trained, sum(count for count, _ in counts if count < PERSISTENT), dtype.itemsize)


def memory_per_gpu(stage: int, gpus: int, sizes: Sizes, overlap: bool = True) -> MemoryBreakdown:
    """Bytes that DeepSpeed stores on each GPU while gradients are accumulated.

    Args:
        stage: of ZeRO.
        gpus: over which the stage shards.
        sizes: of the model.
        overlap: whether communication overlaps with the backward pass, as on GPUs; that needs a second bucket.
    """
    total, trained, width = sizes.total, sizes.trained, sizes.width
    if stage == 0:
        states = 2 * FP32 * trained + (0 if width == FP32 else FP32 * trained)
        return MemoryBreakdown(total * width, trained * width, states, 0)
    states, shard = 3 * FP32 * trained // gpus, FP32 * trained // gpus
    if stage == 3:
        gathered = min(total - sizes.small, MAX_LIVE) * width
        weights = total * width // gpus + sizes.small * width
        return MemoryBreakdown(weights, shard, states, REDUCE_BUCKET * width + gathered)
    bucket = REDUCE_BUCKET * width * (2 if overlap else 1)
    return MemoryBreakdown(total * width, trained * width if stage == 1 else shard, states, bucket)


def bytes_sent_per_step(stage: int, gpus: int, sizes: Sizes, accumulation: int) -> int:
    """Bytes that each GPU sends per optimiser step with ring collectives: (n-1)/n of an all-gather or
    reduce-scatter, and twice that of an all-reduce.

    DeepSpeed's stages 1 and 2 all-reduce gradients, stage 2 in every micro-step; stage 3 gathers parameters for
    the forward pass and, where it cannot keep them, again for the backward pass.
    """
    gradients = sizes.trained * sizes.width
    if stage == 0:
        messages = 2 * gradients
    elif stage < 3:
        messages = 2 * gradients * (accumulation if stage == 2 else 1) + gradients
    else:
        large = sizes.total - sizes.small
        passes = 1 if large <= MAX_LIVE else 2
        messages = accumulation * (passes * large * sizes.width + gradients)
    return messages * (gpus - 1) // gpus


def compute_minutes(sample: StepCount, gpus: int, args: BenchmarkArgs) -> dict[str, float]:
    """Minutes for DRSeg's splits and the published training, at --mfu of the peak."""
    a_minute = 60 * gpus * args.peak_tflops * 1e12 * args.mfu
    training = (sample.forward_flops + sample.backward_flops) / a_minute
    return {
        "train split": DRSEG_RECORDS["train"] * training,
        "published": PUBLISHED_SAMPLES * training,
        "test split": DRSEG_RECORDS["test"] * sample.forward_flops / a_minute,
    }


def make_plan(args: BenchmarkArgs, folder: Path) -> dict[str, Any]:
    """The plan, for JSON; `folder` takes generated pictures."""
    train = train_args(args.config)
    precision = train.precision if args.precision == "auto" else args.precision
    setup = set_up(replace(args, batch=2), torch.device("cpu"), DTYPES[precision], folder)
    model = meta_model(setup.config, setup.dtype)
    prepare(model, train)
    batches = (meta_batch(setup.batch(count, training=True), setup.dtype) for count in (1, 2))
    one, two = (count_step(model, batch, loss_weights(train)) for batch in batches)
    sample = StepCount(two.forward_flops / 2, two.backward_flops / 2, two.activations - one.activations)
    sizes, rows = sizes_of(model, setup.dtype), []
    for gpus, stage in product(args.gpus, range(4)):
        memory = asdict(memory_per_gpu(stage, gpus, sizes))
        first = sum(memory.values()) + one.activations
        totals = {f"batch {batch}": first + (batch - 1) * sample.activations for batch in BATCHES}
        sent = bytes_sent_per_step(stage, gpus, sizes, train.grad_accumulation)
        rows.append({"stage": stage, "gpus": gpus, "memory": {**memory, **totals}, "bytes_sent_per_step": sent})
    return {
        "settings": {**asdict(args), "precision": precision, "grad_accumulation": train.grad_accumulation},
        "tokenizer": str(setup.tokenizer.path),
        "parameters": asdict(sizes),
        "sample": sample._asdict(),
        "stages": rows,
        "minutes": {gpus: compute_minutes(sample, gpus, args) for gpus in args.gpus},
    }


def plan_report(args: BenchmarkArgs) -> str:
    """The plan as tables; written to --out too."""
    with TemporaryDirectory(prefix="benchmark-") as folder:
        plan = make_plan(args, Path(folder, "training"))
        inference = inference_report(args, Path(folder, "inference"))
    if args.out:
        write_json(Path(args.out), plan)
    settings, sample, sizes, rows = plan["settings"], plan["sample"], plan["parameters"], plan["stages"]
    lines = [
        f"{args.config} in {settings['precision']}, {args.data or 'frames of noise'}, {plan['tokenizer']}",
        f"{sizes['total']:,} parameters, of which {sizes['trained']:,} train",
        f"a sample: {sample['forward_flops'] / 1e12:.3g} TFLOP forward and {sample['backward_flops'] / 1e12:.3g} "
        f"backward, {sample['activations'] / GIB:.3g} GiB of activations",
        f"\nGiB a GPU; sent in a step of {settings['grad_accumulation']} micro-steps",
        aligned("", (*rows[0]["memory"], "sent")),
    ]
    for row in rows:
        sizes = (*row["memory"].values(), row["bytes_sent_per_step"])
        lines.append(aligned(f"ZeRO {row['stage']}, GPUs: {row['gpus']}", (f"{size / GIB:.2f}" for size in sizes)))
    lines.append(f"\nminutes at {args.mfu:.0%} of {args.peak_tflops:g} TFLOP/s a GPU, data and network keeping up")
    lines.append(aligned("GPUs", plan["minutes"][args.gpus[0]], 12))
    for gpus, minutes in plan["minutes"].items():
        lines.append(aligned(str(gpus), (f"{one:.3g}" for one in minutes.values()), 12))
    splits = f"DRSeg's: {DRSEG_RECORDS['train']:,} samples to train on, {DRSEG_RECORDS['test']:,} to evaluate"
    lines.append(f"splits are {splits}; published are 10 epochs, {PUBLISHED_SAMPLES:,} samples")
    return "\n".join([*lines, *inference])
