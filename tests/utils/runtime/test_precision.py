"""utils.runtime.precision: number types by name."""

from __future__ import annotations

import pytest
import torch

from utils.runtime.errors import UserError
from utils.runtime.precision import DTYPES, PRECISIONS, full_precision, inference_dtype, precision_name


def test_precision_of_inference() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert inference_dtype("auto", cpu) == torch.float32
    assert inference_dtype("auto", gpu) == torch.bfloat16
    assert inference_dtype("auto", torch.device("mps")) == torch.float32
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


def test_a_type_has_the_name_that_the_option_takes() -> None:
    assert [precision_name(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)] == [
        "fp32",
        "bf16",
        "fp16",
    ]


def test_full_precision_ends_with_its_block() -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        with pytest.raises(KeyError), full_precision():
            assert settings() == ("highest", False)
            raise KeyError
        assert settings() == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
