"""A plan of training: memory a GPU, communication a step and time, from counted sizes (`benchmark.py --plan`).

Parameters, operations and activations are counted on the model itself, on the meta device. What DeepSpeed
keeps and sends by ZeRO stage follows from them; `tests/utils/test_plan.py` holds that against two processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from model.parts import part_of
from utils.benchmark.on_meta import count_forward, count_step, meta_batch, meta_model
from utils.benchmark.results import aligned
from utils.benchmark.setup import Setup, set_up, train_args
from utils.benchmark.training import prepare
from utils.cli.benchmark_options import BenchmarkArgs
from utils.cli.options import as_dict
from utils.datasets.loading.collate import Collator
from utils.runtime.files import write_json
from utils.runtime.precision import DTYPES
from utils.training.setup import loss_weights

STAGES = range(4)
BATCHES = (1, 2, 4, 8)  # records a GPU for which memory is told
FP32 = 4
GIB = 2**30

# DeepSpeed's defaults, which utils/engine.py leaves as they are; in elements.
REDUCE_BUCKET = 500_000_000
MAX_LIVE = 1_000_000_000  # parameters that stage 3 keeps gathered at a time
PERSISTENT = 100_000  # a smaller parameter stays gathered

DRSEG_RECORDS = {"train": 2999, "test": 5001}
PUBLISHED_EPOCH = 200 * 2 * 10 * 8  # steps, batch, accumulation, GPUs
PUBLISHED_EPOCHS = 10


@dataclass(frozen=True)
class Sizes:
    """Counts of parameters, and the bytes of one.

    Args:
        total: of the model.
        trained: of them.
        small: of them, in tensors so small that stage 3 keeps them whole.
        width: bytes of a parameter in the run's precision.
    """

    total: int
    trained: int
    small: int
    width: int


@dataclass(frozen=True)
class Held:
    """Bytes on a GPU beside activations.

    Args:
        weights: of all parameters.
        gradients: as they are added up over micro-steps.
        optimiser: Adam's two moments, and float32 copies of trained weights where weights are not float32 or sharded.
        buffers: in which gradients travel, and parameters that are gathered for use.
    """

    weights: int
    gradients: int
    optimiser: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.buffers


@dataclass(frozen=True)
class SampleCost:
    """What one sample takes.

    Args:
        forward_flops: of a training step.
        backward_flops: likewise, layers that are computed again included.
        answer_flops: of a forced answer.
        activations: bytes that each sample of a batch adds to the peak.
        fixed: bytes of the peak that do not depend on the batch.
    """

    forward_flops: float
    backward_flops: float
    answer_flops: float
    activations: int
    fixed: int


# -- what is counted ---------------------------------------------------------------------------
def sizes_of(model: nn.Module, dtype: torch.dtype) -> Sizes:
    """Of a model whose parameters know whether they train."""
    parameters = list(model.parameters())
    return Sizes(
        total=sum(one.numel() for one in parameters),
        trained=sum(one.numel() for one in parameters if one.requires_grad),
        small=sum(one.numel() for one in parameters if one.numel() < PERSISTENT),
        width=dtype.itemsize,
    )


def by_part(model: nn.Module) -> dict[str, dict[str, int]]:
    """Trained and frozen parameters of each part."""
    parts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        counts = parts.setdefault(part_of(name), {"trained": 0, "frozen": 0})
        counts["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return parts


def sample_cost(setup: Setup, model: Any) -> SampleCost:
    """Of a model on the meta device in training mode: what a second sample adds, and what it does not."""
    collate = Collator(setup.config, setup.tokenizer, cut=True, mask_side=setup.train.mask_side)
    weights = loss_weights(setup.train)
    one, two = (count_step(model, meta_batch(collate(setup.samples[:count]), setup.dtype), weights) for count in (1, 2))
    answer = meta_batch(setup.batch(2), setup.dtype)
    return SampleCost(
        forward_flops=two.forward_flops / 2,
        backward_flops=two.backward_flops / 2,
        answer_flops=count_forward(model, answer) / 2,
        activations=two.peak - one.peak,
        fixed=max(0, 2 * one.peak - two.peak),
    )


# -- what follows ------------------------------------------------------------------------------
def held(stage: int, gpus: int, sizes: Sizes, overlap: bool = True) -> Held:
    """What DeepSpeed keeps on each GPU while gradients are added up.

    Args:
        stage: of ZeRO.
        gpus: that share what the stage shards.
        sizes: of the model.
        overlap: whether gradients travel while others are computed, as on GPUs; that needs a second bucket.
    """
    total, trained, width = sizes.total, sizes.trained, sizes.width
    if stage == 0:
        states = 2 * FP32 * trained + (0 if width == FP32 else FP32 * trained)
        return Held(total * width, trained * width, states, 0)
    states = 3 * FP32 * trained // gpus
    shard = FP32 * trained // gpus
    if stage == 3:
        gathered = min(total - sizes.small, MAX_LIVE) * width
        weights = total * width // gpus + sizes.small * width
        return Held(weights, shard, states, REDUCE_BUCKET * width + gathered)
    bucket = REDUCE_BUCKET * width * (2 if overlap else 1)
    return Held(total * width, trained * width if stage == 1 else shard, states, bucket)


def sent(stage: int, gpus: int, sizes: Sizes, accumulation: int) -> int:
    """Bytes that each GPU sends in an optimiser step, by rings: a GPU sends (n-1)/n of what is gathered or
    scattered, and twice that of what is summed for all.

    DeepSpeed's stages 1 and 2 sum gradients for all, stage 2 in every micro-step; stage 3 gathers parameters for
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


def seconds(samples: int, flops: float, gpus: int, args: BenchmarkArgs) -> float:
    """To compute samples of so many operations each, at the share of the peak that is assumed."""
    return samples * flops / (gpus * args.peak_tflops * 1e12 * args.mfu)


# -- the plan ----------------------------------------------------------------------------------
def make_plan(args: BenchmarkArgs, folder: Path) -> dict[str, Any]:
    """Everything, for JSON; `folder` takes pictures that are made."""
    train = train_args(args.config)
    precision = train.precision if args.precision == "auto" else args.precision
    setup = set_up(replace(args, batch=2), torch.device("cpu"), DTYPES[precision], folder)
    model = meta_model(setup.config, setup.dtype)
    prepare(model, train)
    cost, sizes = sample_cost(setup, model), sizes_of(model, setup.dtype)
    training = cost.forward_flops + cost.backward_flops
    return {
        "settings": {**as_dict(args), "precision": precision},
        "training": {"batch_size": train.batch_size, "grad_accumulation": train.grad_accumulation},
        "data": {"source": setup.source, "tokenizer": str(setup.tokenizer.path)},
        "parameters": by_part(model),
        "sample": asdict(cost),
        "memory": [row for gpus in args.gpus for row in memory_rows(gpus, sizes, cost)],
        "communication": [
            {"stage": stage, "gpus": gpus, "bytes_sent": sent(stage, gpus, sizes, train.grad_accumulation)}
            for gpus in args.gpus
            for stage in STAGES
        ],
        "seconds": [
            {
                "gpus": gpus,
                "sample": seconds(1, training, gpus, args),
                "drseg_pass": seconds(DRSEG_RECORDS["train"], training, gpus, args),
                "published_epoch": seconds(PUBLISHED_EPOCH, training, gpus, args),
                "published_run": seconds(PUBLISHED_EPOCH * PUBLISHED_EPOCHS, training, gpus, args),
                "evaluation": seconds(DRSEG_RECORDS["test"], cost.answer_flops, gpus, args),
            }
            for gpus in args.gpus
        ],
    }


def memory_rows(gpus: int, sizes: Sizes, cost: SampleCost) -> Iterator[dict[str, Any]]:
    """Of every stage."""
    for stage in STAGES:
        one = held(stage, gpus, sizes)
        totals = {str(batch): one.total + cost.fixed + batch * cost.activations for batch in BATCHES}
        yield {"stage": stage, "gpus": gpus, **asdict(one), "total_by_batch": totals}


def plan_text(args: BenchmarkArgs) -> str:
    """The plan as tables; with --out it is written too."""
    with TemporaryDirectory(prefix="benchmark-") as folder:
        plan = make_plan(args, Path(folder))
    if args.out:
        write_json(Path(args.out), plan)
    return "\n\n".join("\n".join(block) for block in blocks(plan))


def blocks(plan: dict[str, Any]) -> Iterator[list[str]]:
    """The tables."""
    settings, sample = plan["settings"], plan["sample"]
    forward, backward, answer = (sample[f"{name}_flops"] / 1e12 for name in ("forward", "backward", "answer"))
    yield [
        f"{settings['config']} in {settings['precision']}, {plan['data']['source']}, {plan['data']['tokenizer']}",
        f"a sample: {forward:.3g} TFLOP forward and {backward:.3g} backward, {answer:.3g} a forced answer; "
        f"{sample['activations'] / GIB:.3g} GiB of activations",
    ]
    counts = plan["parameters"].items()
    yield [
        aligned("parameters", ("trained", "frozen"), 16),
        *(aligned(part, (f"{one['trained']:,}", f"{one['frozen']:,}"), 16) for part, one in counts),
    ]
    yield memory_table(plan["memory"])
    yield [
        f"GiB that a GPU sends in a step of {plan['training']['grad_accumulation']} micro-steps",
        *(aligned(label(one), (f"{one['bytes_sent'] / GIB:.2f}",)) for one in plan["communication"]),
    ]
    yield time_table(plan["seconds"], settings)


def memory_table(rows: list[dict[str, Any]]) -> list[str]:
    """What is held beside activations, and the peak by batch."""
    names = ("weights", "gradients", "optimiser", "buffers")
    lines = [aligned("GiB a GPU", (*names, *(f"batch {batch}" for batch in BATCHES)))]
    for one in rows:
        found = (*(one[name] for name in names), *one["total_by_batch"].values())
        lines.append(aligned(label(one), (f"{count / GIB:.2f}" for count in found)))
    return lines


def time_table(rows: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """How long it takes to compute."""
    columns = ("sample", "drseg_pass", "published_epoch", "published_run", "evaluation")
    return [
        f"time at {settings['mfu']:.0%} of {settings['peak_tflops']:g} TFLOP/s a GPU, data and network keeping up",
        aligned("GPUs", ("a sample", "a pass", "an epoch", f"{PUBLISHED_EPOCHS} epochs", "test split"), 12),
        *(aligned(str(one["gpus"]), (duration(one[name]) for name in columns), 12) for one in rows),
        f"a pass is DRSeg's {DRSEG_RECORDS['train']:,} training records, an epoch the published {PUBLISHED_EPOCH:,} "
        f"samples, the test split {DRSEG_RECORDS['test']:,} forced answers",
    ]


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def label(one: dict[str, Any]) -> str:
    """Of a row by stage and number of GPUs."""
    return f"ZeRO {one['stage']}, {one['gpus']} GPU{'s' * (one['gpus'] > 1)}"
