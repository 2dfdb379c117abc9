"""What asking one question about one picture takes in memory, counted (`benchmark.py --plan`).

Weights, the KV cache and the activations of the forward pass are counted on the model itself, on the meta device.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.decoding import Decoding
from model.quantization import decoder_matrices
from utils.benchmark.on_meta import LiveBytes, OnMeta, meta_batch, meta_model
from utils.benchmark.results import aligned
from utils.benchmark.setup import set_up
from utils.cli.benchmark_options import BenchmarkArgs

GIB = 2**30
FRAME = 3840 * 2160  # pixels of a 4K picture
BLOCK, BLOCKS = 64, 256  # bitsandbytes' NF4: weights of a scale, and 8-bit scales of a float32 one
COLUMNS = ("layers", "others", "KV cache", "forward", "4K frame", "sum")


def matrix_bytes(rows: int, columns: int, load_in: str | None, dtype: torch.dtype) -> int:
    """Bytes of a decoder matrix with the scales that belong to it."""
    values = rows * columns
    if load_in == "8bit":
        return values + 4 * rows
    if load_in == "4bit":
        return values // 2 + values // BLOCK + 4 * (values // (BLOCK * BLOCKS))
    return values * dtype.itemsize


def weight_bytes(model: nn.Module, load_in: str | None, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of the decoder layers' matrices, and of all other weights and buffers."""
    matrices = [layer.weight for layer in decoder_matrices(model.language_model).values()]
    layers = sum(matrix_bytes(*one.shape, load_in, dtype) for one in matrices)
    counted = {id(one) for one in matrices}
    others = sum(one.nbytes for one in [*model.parameters(), *model.buffers()] if id(one) not in counted)
    return layers, others


def cache_bytes(config: PixDLMConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values of so many tokens."""
    text = config.text_config
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * tokens * dtype.itemsize


@torch.no_grad()
def activation_bytes(model: nn.Module, batch: Batch) -> int:
    """Peak bytes of the forward pass's tensors beside weights, buffers and pixels."""
    live = LiveBytes([*model.parameters(), *model.buffers(), batch.clip_pixels, batch.sam_pixels])
    with OnMeta(), live:
        model(batch)
    return live.peak


def inference_rows(args: BenchmarkArgs, folder: Path) -> dict[str, tuple[int, ...]]:
    """Bytes for each way of loading, in the order of COLUMNS; `folder` takes a generated picture."""
    rows, setup = {}, set_up(replace(args, batch=1), torch.device("cpu"), torch.float32, folder)
    batch = setup.batch(1)
    tokens = batch.input_ids.shape[1] + setup.config.image_tokens + Decoding.max_new_tokens
    for dtype, ways in ((torch.float32, (None,)), (torch.bfloat16, (None, "8bit", "4bit"))):
        model = meta_model(setup.config, dtype).eval()
        cache, activations = cache_bytes(setup.config, tokens, dtype), activation_bytes(model, meta_batch(batch, dtype))
        largest = max(layer.weight.numel() for layer in decoder_matrices(model.language_model).values())
        for load_in in ways:
            unpacked = largest * dtype.itemsize if load_in == "4bit" else 0  # for its product
            frame = FRAME * (3 + 4)  # its pixels, and the logits of a mask
            parts = (*weight_bytes(model, load_in, dtype), cache, activations + unpacked, frame)
            name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype] + (f", {load_in}" if load_in else "")
            rows[name] = (*parts, sum(parts))
    return rows


def inference_report(args: BenchmarkArgs, folder: Path) -> list[str]:
    """The rows as lines of a table; `folder` takes a generated picture."""
    rows = inference_rows(args, folder)
    title = f"\nGiB for one question about one picture, with {Decoding.max_new_tokens} new tokens; computed"
    lines = [title, aligned("", COLUMNS)]
    return lines + [aligned(name, (f"{size / GIB:.2f}" for size in sizes)) for name, sizes in rows.items()]
