"""utils.benchmark.setup: weights, frames, tokenizer and engine of what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import ADDED_TOKENS
from model.losses import LossWeights
from model.presets import NAMED_CONFIGS, named_config
from utils.benchmark.setup import (
    HEIGHT,
    WIDTH,
    find_samples,
    find_tokenizer,
    random_model,
    set_up,
    train_args,
    write_frames,
)
from utils.cli.benchmark_options import parse_benchmark
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_follow_the_seed(
    tiny_config: PixDLMConfig, collate: Callable[..., Batch], dtype: torch.dtype
) -> None:
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(random_model(tiny_config, dtype, CPU))
    first, again, other = models
    assert all(one.dtype == dtype and not one.is_meta for one in first.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.projector.weight, other.projector.weight)
    with torch.no_grad():
        output = first(collate(0, 1).to("cpu", dtype), LossWeights())
    assert output.loss.isfinite() and all(one.isfinite().all() for one in output.mask_logits)


def test_frames_are_a_data_set_and_the_same_every_time(tmp_path: Path) -> None:
    for name in "ab":
        write_frames(tmp_path / name, 2)
    samples = load_dataset(tmp_path / "a", "test")
    assert [(one.height, one.width) for one in samples] == [(HEIGHT, WIDTH)] * 2
    first, again = ((tmp_path / name / "CODrone" / "DRtest" / "1.jpg").read_bytes() for name in "ab")
    assert first == again != samples[0].image_path.read_bytes()
    assert 300_000 < len(first) < 2_000_000  # a photograph's JPEG


def test_data_with_less_than_a_batch_are_refused(tiny_drseg: Path, tmp_path: Path) -> None:
    args = parse_benchmark(["--data", str(tiny_drseg), "--batch", "12"])
    with pytest.raises(UserError, match="--batch is 12, but .* has 11 records in test"):
        find_samples(args, tmp_path)


def test_own_data_are_shuffled_the_same_way_every_time(tiny_drseg: Path, tmp_path: Path) -> None:
    args = parse_benchmark(["--data", str(tiny_drseg), "--split", "val"])
    first, again = ([one.index for one in find_samples(args, tmp_path)] for _ in range(2))
    assert first == again != sorted(first) == list(range(11))


@pytest.mark.parametrize("name", NAMED_CONFIGS)
def test_every_configuration_has_a_tokenizer_and_ids_that_fit(name: str, tokenizer_file: Path) -> None:
    args, config = parse_benchmark(["--config", name, "--tokenizer", str(tokenizer_file)]), named_config(name)
    tokenizer = find_tokenizer(args, config, train_args(name))
    if name == "mini":
        assert len(tokenizer) == 320 + len(ADDED_TOKENS)  # and the model is fitted to it
    else:
        assert len(tokenizer) == config.text_config.vocab_size == 32_015
        assert tokenizer.seg_ids == list(range(32_000, 32_009))


def test_mini_is_set_up_with_its_own_tokenizer(tmp_path: Path) -> None:
    found = set_up(parse_benchmark(["--batch", "1"]), CPU, torch.float32, tmp_path)
    assert found.config.text_config.vocab_size == len(found.tokenizer)
    batch = found.batch(1)
    assert len(batch) == 1 and batch.geometries[0].width == WIDTH


def test_golden_reads_frames_like_the_others(tmp_path: Path) -> None:
    samples = find_samples(parse_benchmark(["--config", "golden", "--batch", "1"]), tmp_path)
    assert [(one.height, one.width) for one in samples] == [(HEIGHT, WIDTH)]


def test_the_engine_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    args = parse_benchmark(["--batch", "1"])
    assert set_up(args, CPU, torch.float32, tmp_path / "a").args.engine == "deepspeed"
    monkeypatch.setattr("utils.benchmark.setup.find_spec", lambda name: None)
    assert set_up(args, CPU, torch.float32, tmp_path / "b").args.engine == "torch"
    with pytest.raises(UserError, match="--engine deepspeed: DeepSpeed is not installed"):
        set_up(replace(args, engine="deepspeed"), CPU, torch.float32, tmp_path / "c")
