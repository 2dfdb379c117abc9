"""utils.runtime.precision: number types by name."""

from __future__ import annotations

import pytest
import torch

from utils.runtime.errors import UserError
from utils.runtime.precision import DTYPES, PRECISIONS, inference_dtype


def test_precision_of_inference() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert inference_dtype("auto", cpu) == torch.float32
    assert inference_dtype("auto", gpu) == torch.bfloat16
    assert [inference_dtype(name, gpu) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    with pytest.raises(UserError, match="--precision is 'fp8'; known are"):
        inference_dtype("fp8", cpu)


def test_every_precision_has_its_type() -> None:
    assert DTYPES.keys() == set(PRECISIONS)
    assert DTYPES["bf16"] == torch.bfloat16 and DTYPES["mixed"] == torch.float32
