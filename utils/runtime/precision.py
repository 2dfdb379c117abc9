"""Dtypes by name, and full float32 precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from utils.runtime.errors import UserError

INFERENCE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES = {**INFERENCE_DTYPES, "mixed": torch.float32}  # of weights in training; mixed computes in bf16
PRECISIONS = tuple(DTYPES)


def precision_name(dtype: torch.dtype) -> str:
    """The name of a dtype, as --precision takes it."""
    return next(name for name, one in DTYPES.items() if one == dtype)


def inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of weights and pixels for inference.

    "auto" is bf16 on an NVIDIA GPU and fp32 elsewhere: on a Mac's GPU too, where bf16 needs a recent system and what
    was trained in bf16 may exceed fp16's range.

    Raises:
        UserError: no such precision.
    """
    types = {**INFERENCE_DTYPES, "auto": torch.bfloat16 if device.type == "cuda" else torch.float32}
    if precision not in types:
        raise UserError(f"--precision is {precision!r}; known are {', '.join(types)}")
    return types[precision]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Turn TF32 off in the block, so that results are comparable."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
