"""utils.benchmark: sections of the real forward pass, generation, training, and what is measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import ADDED_TOKENS, PixTokenizer
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from model.presets import NAMED_CONFIGS, named_config
from utils.benchmark.frames import HEIGHT, WIDTH, write_frames
from utils.benchmark.measure import Bench, Part, count_sections
from utils.benchmark.parts import FORWARD, answers, evaluation, fixed_length, forward, loading, marked, training
from utils.benchmark.setup import (
    Setup,
    find_samples,
    find_tokenizer,
    random_model,
    set_up,
    train_args,
)
from utils.benchmark.training import TorchStep, prepare, training_step
from utils.cli.benchmark_options import parse_benchmark
from utils.datasets import load_dataset
from utils.runtime.errors import UserError
from utils.training.engine import parameter_groups

CPU = torch.device("cpu")


@pytest.fixture
def setup(tiny_config: PixDLMConfig, tokenizer: PixTokenizer, tiny_drseg: Path) -> Setup:
    """Two samples, a tiny model, and what trains as in mini; the losses need no frame of its own size."""
    args = parse_benchmark(["--batch", "2", "--new-tokens", "3", "--engine", "torch", "--workers", "1"])
    train = replace(train_args("mini"), mask_side=None)
    samples = load_dataset(tiny_drseg, "test")
    return Setup(args, train, tiny_config, tokenizer, samples, "tiny", CPU, torch.float32)


# Parts of the model


def test_sections_are_marked_in_the_real_forward_pass(
    tiny_model: PixDLMForCausalLM, collate: Callable[..., Batch]
) -> None:
    weights, batch, entered = LossWeights(overlap=1.0, grounding=1.0), collate(0, 4), []

    def section(name: str) -> nullcontext[None]:
        entered.append(name)
        return nullcontext()

    expected = tiny_model(batch, weights)
    with marked(tiny_model, FORWARD, section):
        found = tiny_model(batch, weights)
    assert torch.equal(found.loss, expected.loss)
    assert list(dict.fromkeys(entered)) == list(FORWARD)
    entered.clear()
    tiny_model(batch, weights)
    assert not entered  # nothing of it stays


def test_sections_hold_all_of_the_forward_pass_and_its_losses(setup: Setup, tiny_model: PixDLMForCausalLM) -> None:
    counted = count_sections(forward(setup, tiny_model))
    whole = counted.pop("")
    assert counted.keys() == FORWARD.keys()
    assert sum(counted.values()) == whole > 0
    with torch.no_grad():
        batch = setup.batch(2)
        assert whole == count_sections(Part("", lambda s: tiny_model(batch, LossWeights(grounding=1.0)), 2))[""]


def test_evaluation_is_forward_and_scoring(setup: Setup, tiny_model: PixDLMForCausalLM) -> None:
    part = evaluation(setup, tiny_model)
    rows = Bench(CPU, repeats=1, warmup=0).measure(part)
    assert [one.part for one in rows] == ["eval", "eval: masks", "eval: frames and scores"]
    assert part.samples == 2 and rows[1].flops == rows[0].flops > 0


@pytest.mark.parametrize("size", [1, 2])
def test_every_answer_has_the_length_that_was_asked_for(setup: Setup, tiny_model: PixDLMForCausalLM, size: int) -> None:
    steps = []
    head = tiny_model.language_model.lm_head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[2] = 1e-3  # by itself the model would end every answer at once, or never
    head.register_forward_hook(lambda _module, _inputs, logits: steps.append(logits.shape[0]))
    before = tiny_model.language_model.generation_config.min_new_tokens
    counted = count_sections(answers(setup, tiny_model, "generate", size))
    assert steps == [size] * 3
    assert list(counted) == ["", "vision", "prompts", "writing"] and all(counted.values())
    assert tiny_model.language_model.generation_config.min_new_tokens == before


def test_the_length_is_set_back_after_an_error(tiny_model: PixDLMForCausalLM) -> None:
    with pytest.raises(RuntimeError), fixed_length(tiny_model, 5):
        raise RuntimeError
    assert tiny_model.language_model.generation_config.min_new_tokens is None


def test_loading_is_measured_in_this_process_and_by_workers(setup: Setup) -> None:
    threads = torch.get_num_threads()
    here, workers = loading(setup)
    assert (here.name, here.samples) == ("data: decode and collate", 2)
    assert (workers.name, workers.samples) == ("data: loader, 1 worker", 8)
    for part in (here, workers):
        (one,) = Bench(CPU, repeats=1, warmup=0).measure(part)
        assert one.seconds > 0 and one.flops is None
    assert torch.get_num_threads() == threads
    (alone,) = loading(replace(setup, args=replace(setup.args, workers=0)))
    assert alone.name == here.name


# Training


def test_a_step_is_adamw_on_clipped_gradients(setup: Setup, tiny_model: PixDLMForCausalLM) -> None:
    plain = copy.deepcopy(tiny_model)
    step = TorchStep(setup, tiny_model)
    part = training(step)
    Bench(CPU, repeats=1, warmup=1).run(part)
    prepare(plain, setup.train)
    optimizer = torch.optim.AdamW(
        parameter_groups(plain, setup.train.weight_decay), lr=setup.train.lr, betas=(0.9, 0.95)
    )
    plain(step.batch, step.weights).loss.backward()
    nn.utils.clip_grad_norm_(plain.parameters(), setup.train.clip_norm)
    optimizer.step()
    for (name, one), other in zip(tiny_model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    assert part.samples == 2


def test_half_precision_trains_float32_copies(setup: Setup, tiny_model: PixDLMForCausalLM) -> None:
    """A step of a ten-thousandth is lost on a weight of 1 in bfloat16, ten of them are not where copies are kept."""
    setup = replace(setup, dtype=torch.bfloat16, train=replace(setup.train, lr=1e-3, weight_decay=0.0))
    step = TorchStep(setup, tiny_model.cast(torch.bfloat16))
    norm = tiny_model.language_model.model.norm.weight
    for _ in range(10):
        step.forward()
        step.backward()
        step.update()
    assert norm.dtype == torch.bfloat16 and not torch.equal(norm, torch.ones_like(norm))
    assert all(master.dtype == torch.float32 for master in step.masters)
    assert all(one.grad is None for one in step.parameters)
    for one, master in zip(step.parameters, step.masters, strict=True):
        assert torch.equal(one, master.bfloat16())


def test_release_trains_adapters_and_computes_layers_again(tiny_model: PixDLMForCausalLM) -> None:
    tiny_model.config.trainable_fusion = False
    trained = prepare(tiny_model, train_args("golden"))
    assert {"lora", "mask_decoder", "embeddings"} <= trained.keys() and "clip" not in trained
    assert "language_model" not in trained and "fusion" not in trained
    assert tiny_model.language_model.is_gradient_checkpointing
    assert all(one.dtype == torch.float32 for one in tiny_model.parameters())


def test_deepspeed_that_is_missing_is_told(
    setup: Setup, tiny_model: PixDLMForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.benchmark.training.find_spec", lambda name: None)
    auto = replace(setup, args=replace(setup.args, engine="auto"))
    assert isinstance(training_step(auto, tiny_model), TorchStep)
    with pytest.raises(UserError, match="--engine deepspeed: DeepSpeed is not installed"):
        training_step(replace(setup, args=replace(setup.args, engine="deepspeed")), tiny_model)


# What is measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_follow_the_seed(
    tiny_config: PixDLMConfig, collate: Callable[..., Batch], dtype: torch.dtype
) -> None:
    first, again, other = (random_model(tiny_config, dtype, CPU, seed) for seed in (1, 1, 2))
    assert all(one.dtype == dtype and not one.is_meta for one in first.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.projector.weight, other.projector.weight)
    with torch.no_grad():
        output = first(collate(0, 1).to("cpu", dtype), LossWeights())
    assert output.loss.isfinite() and all(one.isfinite().all() for one in output.mask_logits)


def test_large_matrices_repeat_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from utils.benchmark import setup

    monkeypatch.setattr(setup, "BLOCK", 64)
    values = setup.random_weights("x.weight", torch.Size([5, 16]), torch.float32, torch.Generator().manual_seed(0))
    assert torch.equal(values[4], values[0]) and not torch.equal(values[1], values[0])
    assert 0.1 < values.std() < 0.5  # 1/4 for 16 inputs


def test_frames_follow_the_seed_and_are_a_data_set(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_frames(tmp_path / name, 2, seed)
    samples = load_dataset(tmp_path / "a", "test")
    assert [(one.height, one.width) for one in samples] == [(HEIGHT, WIDTH)] * 2
    files = [tmp_path / name / "CODrone" / "DRtest" / "frame_0001.jpg" for name in "abc"]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
    assert 300_000 < len(first) < 2_000_000  # a photograph's JPEG


def test_a_batch_larger_than_the_data_has_a_picture_for_each_sample(tmp_path: Path) -> None:
    args = parse_benchmark(["--config", "golden", "--batch", "5"])
    samples, source = find_samples(args, tmp_path)
    assert len({one.image_path for one in samples}) == 5 and [one.index for one in samples[2:]] == [2, 3, 4]
    assert {one.image_path.read_bytes() for one in samples[2:]} == {one.image_path.read_bytes() for one in samples[:2]}
    assert "golden" in source


def test_own_data_are_shuffled_with_the_seed(tiny_drseg: Path, tmp_path: Path) -> None:
    orders = []
    for seed in ("1", "1", "2"):
        args = parse_benchmark(["--data", str(tiny_drseg), "--split", "val", "--seed", seed])
        orders.append([one.index for one in find_samples(args, tmp_path)[0]])
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(11))


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
