"""A run of benchmark.py: parts measured one after the other, the JSON kept up to date, a text at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from utils.runtime.machine import machine
from utils.benchmark.measure import Bench, Part
from utils.benchmark.parts import GENERATE_MANY, GENERATE_ONE, evaluation, forward, generation, loading, training
from utils.benchmark.results import FORMAT, comparison, read_results, record, table
from utils.benchmark.setup import Setup, random_model, set_up
from utils.benchmark.training import training_step
from utils.cli.benchmark_options import parse_benchmark
from utils.cli.options import as_dict
from utils.runtime.distributed import pick_device, process_group
from utils.runtime.files import make_output_folder, write_json
from utils.runtime.logs import start_logging
from utils.runtime.precision import inference_dtype

log = logging.getLogger("benchmark")


def benchmark(argv: list[str] | None = None) -> str:
    """What benchmark.py does; the text that it prints at the end.

    Raises:
        UserError: an option has a value that cannot be, or what it names is not there.
    """
    args = parse_benchmark(argv)
    start_logging()
    if args.out:
        make_output_folder(Path(args.out).parent)
    if args.plan:
        from utils.benchmark.plan import plan_text  # which is not needed to measure

        return plan_text(args)
    old = read_results(Path(args.compare)) if args.compare else None
    device = pick_device(args.device)
    dtype = inference_dtype(args.precision, device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with TemporaryDirectory(prefix="benchmark-") as folder, process_group(device):
        results = measure(set_up(args, device, dtype, Path(folder)))
    texts = [described(results), table(results["parts"]), *(f"{k}: {v:.2f}" for k, v in results["ratios"].items())]
    return "\n".join([*texts, *([comparison(old, results)] if old else [])])


def measure(setup: Setup) -> dict[str, Any]:
    """Every part that was asked for; with --out the file is written anew after each, as a large model takes hours."""
    args = setup.args
    bench = Bench(setup.device, args.repeats, args.warmup)
    peak = bench.peak(setup.dtype)
    results = beginning(setup, bench, peak)
    for part in chosen_parts(setup, results):
        log.info("measuring %s", part.name)
        rows = bench.measure(part)
        results["parts"] += [record(one, peak) for one in rows]
        results["ratios"] = throughput_ratios(results["parts"], args.batch)
        if args.out:
            write_json(Path(args.out), results)
    return results


def beginning(setup: Setup, bench: Bench, peak: float) -> dict[str, Any]:
    """What the numbers depend on."""
    args = setup.args
    batch = setup.batch(args.batch)
    chosen = {
        "dtype": str(setup.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": str(setup.device),
    }
    return {
        "benchmark": FORMAT,
        "settings": {**as_dict(args), **chosen},
        "machine": machine(setup.device),
        "peak_flops_per_second": peak,
        "memory_peak_is": bench.memory.how,
        "data": {
            "source": setup.source,
            "samples": len(batch),
            "pictures": len(batch.geometries),
            "frames": [[one.height, one.width] for one in batch.geometries],
            "tokenizer": str(setup.tokenizer.path),
            "prompt_tokens": batch.attention_mask.sum(dim=1).tolist(),
        },
        "parts": [],
        "ratios": {},
    }


def chosen_parts(setup: Setup, results: dict[str, Any]) -> Iterator[Part]:
    """The parts in order; the model is built when one needs it, and how it trains is told in `results`."""
    wanted = set(setup.args.parts)
    if "data" in wanted:
        yield from loading(setup)
    if wanted == {"data"}:
        return
    model = random_model(setup.config, setup.dtype, setup.device, setup.args.seed)
    model.use_flash_attention()
    results["model"] = {
        "weights": "random, with the seed",
        "parameters": sum(one.numel() for one in model.parameters()),
        "attention": model.language_model.config._attn_implementation,
    }
    if "forward" in wanted:
        yield forward(setup, model)
    if "eval" in wanted:
        yield evaluation(setup, model)
    if "generate" in wanted:
        yield from generation(setup, model)
    if "train" in wanted:
        step = training_step(setup, model)
        results["training"] = {
            "by": step.how,
            "trained_parameters": step.trained,
            "gradient_checkpointing": setup.train.gradient_checkpointing,
            "mask_side": setup.train.mask_side,
        }
        yield training(step)


def throughput_ratios(parts: list[dict[str, Any]], batch: int) -> dict[str, float]:
    """How much more answers a second a batch gives than one question at a time."""
    speed = {one["part"]: one["samples_per_second"] for one in parts}
    return {
        f"throughput of {GENERATE_MANY}{section}, batch {batch} to one at a time": speed[many] / speed[one]
        for section in ("", ": writing")
        if (many := GENERATE_MANY + section) in speed and (one := GENERATE_ONE + section) in speed
    }


def described(results: dict[str, Any]) -> str:
    """The lines above the table."""
    settings, found, data = results["settings"], results["machine"], results["data"]
    lines = [
        f"{settings['config']}, {settings['dtype']}, batch {settings['batch']}, on {found['gpu'] or found['cpu']}, "
        f"{found['threads']} threads, torch {found['versions']['torch']}",
        f"a matrix product reaches {results['peak_flops_per_second'] / 1e12:.3f} TFLOP/s; "
        f"memory is {results['memory_peak_is']}",
        f"{data['source']}: {data['samples']} samples about {data['pictures']} pictures, "
        f"prompts of {min(data['prompt_tokens'])} to {max(data['prompt_tokens'])} tokens beside the image's",
    ]
    if "training" in results:
        lines.append(f"the training step is {results['training']['by']}")
    return "\n".join(lines)
