"""Number types by name, and arithmetic that keeps its digits."""

from __future__ import annotations

import contextlib

import torch

from utils.runtime.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "mixed": torch.float32}
PRECISIONS = ("fp32", "bf16", "fp16", "mixed")


def precision_name(dtype: torch.dtype) -> str:
    """What --precision calls weights and arithmetic of this type."""
    return next(name for name, one in DTYPES.items() if one == dtype)


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


@contextlib.contextmanager
def full_precision():
    """Keep PyTorch from trading digits for speed while numbers are made that will be compared."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
