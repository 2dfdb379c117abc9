"""A run of benchmark.py: measures the parts one by one, updates the JSON after each, and returns the table."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from utils.benchmark.measure import measure, product_speed
from utils.benchmark.parts import PART_MAKERS
from utils.benchmark.results import read_results, table
from utils.benchmark.setup import Setup, set_up
from utils.cli.benchmark_options import PARTS, BenchmarkArgs
from utils.runtime.distributed import pick_device, process_group
from utils.runtime.files import write_json
from utils.runtime.machine import machine
from utils.runtime.precision import inference_dtype

log = logging.getLogger("benchmark")


def benchmark_report(args: BenchmarkArgs) -> str:
    """Measure the parts of --parts; returns the table, and writes --out.

    Raises:
        UserError: a file that an option names does not exist.
    """
    old = read_results(Path(args.compare)) if args.compare else {"settings": {}, "parts": []}
    device = pick_device(args.device)
    torch.manual_seed(0)
    with TemporaryDirectory(prefix="benchmark-") as folder, process_group(device):
        setup = set_up(args, device, inference_dtype(args.precision, device), Path(folder))
        results = {"settings": settings_of(setup), "machine": machine(device), "parts": []}
        product_flops = results["settings"]["matrix_product_flops_per_second"]
        for part in chain.from_iterable(PART_MAKERS[name](setup) for name in PARTS if name in args.parts):
            log.info("measuring %s", part.name)
            results["parts"] += measure(part, device, args.repeats, product_flops)
            if args.out:  # after each part, as a large model takes hours
                write_json(Path(args.out), results)
    before, lines = old["settings"], [f"on {results['machine']['gpu'] or results['machine']['cpu']}"]
    for name, value in results["settings"].items():
        differs = f" (earlier: {before[name]})" if before.get(name, value) != value else ""
        lines.append(f"{name.replace('_', ' ')}: {value}{differs}")
    return "\n".join([*lines, table(results["parts"], old["parts"])])


def settings_of(setup: Setup) -> dict[str, Any]:
    """Everything that the measurements depend on, but the machine."""
    args, batch = setup.args, setup.batch(setup.args.batch)
    lengths = batch.attention_mask.sum(dim=1).tolist()
    return {
        "config": args.config,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "device": str(setup.device),
        "threads": torch.get_num_threads(),
        "matrix_product_flops_per_second": round(product_speed(setup.device, setup.dtype)),
        "batch": args.batch,
        "new_tokens": args.new_tokens,
        "engine": args.engine,
        "data": args.data or "noise",
        "pictures": len(batch.geometries),
        "frames": sorted({f"{one.width}x{one.height}" for one in batch.geometries}),
        "tokenizer": str(setup.tokenizer.path),
        "prompt_tokens": [min(lengths), max(lengths)],
    }
