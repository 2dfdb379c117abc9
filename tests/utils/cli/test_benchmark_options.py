"""utils.cli.benchmark_options: what cannot be is refused."""

from __future__ import annotations

import pytest

from utils.cli.benchmark_options import parse_benchmark
from utils.runtime.errors import UserError


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "huge"], "--config is 'huge'; known are release, native, mini, golden"),
        (["--precision", "fp16"], "--precision is 'fp16'"),
        (["--engine", "jax"], "--engine is 'jax'"),
        (["--parts", "data", "cook"], "--parts cook: known are data, forward, eval, generate, train"),
        (["--batch", "0"], "--batch is 0"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--gpus", "1", "0"], "--gpus is 1 0"),
        (["--mfu", "1.2"], "--peak-tflops 989.0 --mfu 1.2"),
        (["--peak-tflops", "0"], "--peak-tflops 0.0"),
        (["--plan", "--compare", "no/such.json"], "--compare is for measurements"),
    ],
)
def test_what_cannot_be_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_benchmark(argv)
