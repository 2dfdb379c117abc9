"""SAM2's features on disk: equal to the bit, encoded once, bounded, safe with many processes, checked."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import PixDLMConfig
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from utils.args import EvalArgs
from utils.collate import Batch
from utils.errors import UserError
from utils.feature_cache import FeatureCache, start_cache

Make = Callable[..., Batch]
PICTURE = torch.arange(3 * 8 * 8).reshape(1, 3, 8, 8).float()


def encode(pixels: Tensor) -> list[Tensor]:
    """A pyramid of two levels in both orders in memory, 1,280 bytes a picture."""
    fine = pixels.repeat(1, 2, 1, 1)[:, :4]
    return [pixels[:, :, ::4, ::4].contiguous(memory_format=torch.channels_last), fine.contiguous()]


def pictures(*numbers: int) -> Tensor:
    return torch.cat([PICTURE + number for number in numbers])


class Counted:
    """The encoder, with what it was asked."""

    def __init__(self, inner: Callable[[Tensor], list[Tensor]] = encode) -> None:
        self.inner, self.sizes = inner, []

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        self.sizes.append(len(pixels))
        return self.inner(pixels)


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal to the bit, and a picture's numbers in the same order in memory."""
    pairs = list(zip(found, expected, strict=True))
    return all(torch.equal(a, b) and a.dtype == b.dtype and a.stride()[1:] == b.stride()[1:] for a, b in pairs)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", 10**6, ["facts"])


def kept(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.glob("*.features"))


# Looking up


def test_what_is_known_is_not_encoded_again(cache: FeatureCache) -> None:
    encoder = Counted()
    for numbers, asked in (((0, 1), [2]), ((0, 1), [2]), ((1, 2, 0), [2, 1]), ((2,), [2, 1]), ((3, 3), [2, 1, 2])):
        assert same(cache(pictures(*numbers), encoder), encode(pictures(*numbers)))
        assert encoder.sizes == asked
    assert (cache.read, cache.encoded) == (5, 5) and len(kept(cache)) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_stay_in_their_type(cache: FeatureCache, dtype: torch.dtype) -> None:
    pixels = torch.randn(2, 3, 8, 8).to(dtype)
    for _ in range(2):
        assert same(cache(pixels, encode), encode(pixels))


def test_another_process_finds_them_and_other_circumstances_do_not(cache: FeatureCache) -> None:
    cache(PICTURE, encode)
    encoder = Counted()
    assert same(FeatureCache(cache.folder, 10**6, ["facts"])(PICTURE, encoder), encode(PICTURE))
    assert encoder.sizes == []
    threads = torch.get_num_threads()
    FeatureCache(cache.folder, 10**6, ["others"])(PICTURE, encoder)  # other weights
    cache(PICTURE.flip(-1), encoder)  # mirrored
    cache(PICTURE.bfloat16(), encoder)
    with torch.autocast("cpu"):
        cache(PICTURE, encoder)
    try:
        torch.set_num_threads(threads + 1)  # sums are cut up by their number
        cache(PICTURE, encoder)
    finally:
        torch.set_num_threads(threads)
    assert encoder.sizes == [1] * 5 and len(kept(cache)) == 6


def test_levels_that_are_not_read_are_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6, [], levels=1)
    for _ in range(2):
        assert same(cache(PICTURE, encode), encode(PICTURE)[:1])
    assert kept(cache)[0].stat().st_size < 1000


# The bound


def test_what_was_used_longest_ago_makes_room(cache: FeatureCache, caplog: pytest.LogCaptureFixture) -> None:
    cache(PICTURE, encode)
    size = kept(cache)[0].stat().st_size
    cache.limit = 3 * size
    (cache.folder / "model.safetensors").write_bytes(bytes(10 * size))  # somebody else's
    left_over = cache.folder / f".{kept(cache)[0].name}.writing"
    left_over.write_bytes(bytes(100))
    encoder = Counted()
    for number in (1, 2, 0, 3, 0, 4):
        cache(pictures(number), encoder)
        assert sum(file.stat().st_size for file in kept(cache)) <= cache.limit
        time.sleep(0.01)  # file systems tell times apart by some milliseconds
    assert encoder.sizes == [1] * 4  # 0 was always known, 1 and 2 had to go
    cache(pictures(0, 3, 4), encoder)
    assert encoder.sizes == [1] * 4
    cache(pictures(1), encoder)
    assert encoder.sizes == [1] * 5
    assert (cache.folder / "model.safetensors").exists() and not left_over.exists()
    assert caplog.text.count("is full: features used longest ago make room") == 1


def test_a_limit_that_holds_no_picture_is_told(cache: FeatureCache) -> None:
    cache.limit = 500
    with pytest.raises(UserError, match=r"--feature-cache-gb is 5e-07, and one picture's features take 0\.000"):
        cache(PICTURE, encode)
    assert kept(cache) == []


# Damage


@pytest.mark.parametrize("where", ["cut off", "empty", "in a level", "in a name", "in a type", "no safetensors"])
def test_a_damaged_file_is_named_and_made_again(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    cache(PICTURE, encode)
    (file,) = kept(cache)
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[-100] ^= 1
    damaged = {
        "cut off": data[:-50],
        "empty": b"",
        "in a level": bytes(flipped),
        "in a name": data.replace(b"0 channels last", b"0 channels lost"),
        "in a type": data.replace(b"F32", b"I32"),
        "no safetensors": b"<html>not found</html>" * 50,
    }
    file.write_bytes(damaged[where])
    encoder = Counted()
    assert same(cache(PICTURE, encoder), encode(PICTURE)) and encoder.sizes == [1]
    assert f"{file}: damaged" in caplog.text and caplog.records[-1].levelno == logging.WARNING
    assert file.read_bytes() == data
    assert same(cache(PICTURE, encoder), encode(PICTURE)) and encoder.sizes == [1]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--feature-cache .*file: cannot be written \(File exists\)"):
        FeatureCache(tmp_path / "file", 10**6, [])


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    cache: FeatureCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.feature_cache.write_file", full)
    for number in (0, 1):
        assert same(cache(pictures(number), encode), encode(pictures(number)))
    assert caplog.text.count("cannot be written ([Errno 28] No space left on device); no more features are kept") == 1


# Many processes


def use(folder: Path, limit: int, seed: int, outcome: multiprocessing.Queue) -> None:
    """Look 60 pictures up in an order of its own; how many come out wrong or are read, and what was said."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("utils.feature_cache").addHandler(handler)
    cache = FeatureCache(folder, limit, ["facts"])
    order = torch.randint(12, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    wrong = sum(not same(cache(pictures(number), encode), encode(pictures(number))) for number in order)
    outcome.put((wrong, cache.read, [message for message in said if "is full" not in message]))


def test_processes_share_a_folder_that_is_too_small(cache: FeatureCache) -> None:
    cache(PICTURE, encode)
    limit = 5 * kept(cache)[0].stat().st_size
    context = multiprocessing.get_context("fork")
    outcome = context.Queue()
    started = [context.Process(target=use, args=(cache.folder, limit, seed, outcome)) for seed in range(3)]
    for process in started:
        process.start()
    results = [outcome.get(timeout=60) for _ in started]
    for process in started:
        process.join()
    assert all(wrong == 0 and read > 0 and not said for wrong, read, said in results), results
    assert sum(file.stat().st_size for file in kept(cache)) <= limit and len(kept(cache)) == 5
    assert not list(cache.folder.glob(".*.writing"))


# In a model


@pytest.fixture
def trained(tiny_model: PixDLMForCausalLM) -> PixDLMForCausalLM:
    """As in training: all but SAM2 learns."""
    tiny_model.pixel_path.requires_grad_(False)
    return tiny_model.train()


def step(model: PixDLMForCausalLM, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses and masks, and gradients."""
    model.zero_grad()
    torch.manual_seed(0)
    output = model(batch, LossWeights())
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return [output.loss, output.ce_loss, output.mask_bce_loss, *output.mask_logits], gradients


@pytest.mark.parametrize("pyramid", [True, False])
def test_losses_masks_and_gradients_are_those_without_it(
    tmp_path: Path, collate: Make, tiny_config: PixDLMConfig, pyramid: bool
) -> None:
    tiny_config.pixel_pyramid = pyramid
    torch.manual_seed(0)
    model = PixDLMForCausalLM(tiny_config).train()
    model.pixel_path.requires_grad_(False)
    batch = collate()
    expected, gradients = step(model, batch)
    cache = start_cache(model, EvalArgs(feature_cache=str(tmp_path / "cache")))
    for encoded in (len(batch.clip_pixels), len(batch.clip_pixels)):  # the second pass reads them all
        found, again = step(model, batch)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert again.keys() == gradients.keys() and all(torch.equal(again[n], gradients[n]) for n in gradients)
        assert cache.encoded == encoded
    assert cache.read == encoded


def test_another_models_features_are_others(tmp_path: Path, collate: Make, trained: PixDLMForCausalLM) -> None:
    args, batch = EvalArgs(feature_cache=str(tmp_path)), collate(0)
    start_cache(trained, args)
    trained(batch)
    with torch.no_grad():
        next(trained.pixel_path.parameters()).add_(1)
    cache = start_cache(trained, args)
    trained(batch)
    assert (cache.read, cache.encoded) == (0, 1)


def test_it_needs_a_frozen_sam2(tmp_path: Path, tiny_model: PixDLMForCausalLM, trained: PixDLMForCausalLM) -> None:
    args = EvalArgs(feature_cache=str(tmp_path))
    next(trained.pixel_path.parameters()).requires_grad_(True)
    with pytest.raises(UserError, match="--feature-cache needs a frozen SAM2, and in this run it trains"):
        start_cache(trained, args)
    assert start_cache(trained.eval(), args)  # evaluation changes nothing
    assert start_cache(trained.train(), EvalArgs()) is None


def test_random_features_are_not_kept(tmp_path: Path, tiny_config: PixDLMConfig) -> None:
    tiny_config.pixel_encoder["trunk"]["drop_path_rate"] = 0.1
    model = PixDLMForCausalLM(tiny_config)
    model.pixel_path.requires_grad_(False)
    with pytest.raises(UserError, match="drop_path_rate makes its features random"):
        start_cache(model.train(), EvalArgs(feature_cache=str(tmp_path)))
