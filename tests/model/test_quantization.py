"""model.quantization: which matrices are rounded and which not, what memory loading takes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from model import PixDLM, quantization
from model.checkpoints.export import save_own, save_published
from model.checkpoints.load import load_pretrained
from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.lora import lora_settings, merge_lora
from model.pixdlm import PixDLMForCausalLM, load_model
from model.quantization import LOAD_IN, check_load_in
from utils.benchmark.on_meta import LiveBytes
from utils.runtime.errors import UserError

CPU, GPU, MAC = map(torch.device, ("cpu", "cuda:0", "mps"))
TYPES = {"8bit": "Linear8bitLt", "4bit": "LinearNF4", "int8": "Linear"}
MATRICES = 7  # of a decoder layer: four of the attention, three of the MLP


@pytest.fixture(params=LOAD_IN)
def load_in(request: pytest.FixtureRequest) -> str:
    if request.param != "int8":
        pytest.importorskip("bitsandbytes")
    return request.param


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    save_model(tmp_path / "plain", tiny_model, tokenizer, tiny_model.state_dict(), {})
    return tmp_path / "plain"


def is_decoder_matrix(name: str) -> bool:
    return name.startswith("language_model.model.layers.") and name.endswith("_proj")


# What is rounded


def test_the_decoder_layers_alone_are_quantised(folder: Path, load_in: str) -> None:
    plain, small = load_model(folder)[0], load_model(folder, load_in=load_in)[0]
    changed = [
        name
        for (name, a), (_, b) in zip(plain.named_modules(), small.named_modules(), strict=False)
        if type(a) is not type(b)
    ]
    modules = dict(small.named_modules())
    quantised = [name for name, module in modules.items() if is_decoder_matrix(name) and type(module) is not nn.Linear]
    assert len(quantised) == 2 * MATRICES and {type(modules[name]).__name__ for name in quantised} == {TYPES[load_in]}
    assert changed[0] == quantised[0]
    own = dict(small.named_parameters())
    kept = {n: p for n, p in plain.named_parameters() if not is_decoder_matrix(n.rpartition(".")[0])}
    assert all(torch.equal(own[name], parameter) for name, parameter in kept.items())
    assert {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight", "projector.weight"} < set(kept)
    assert not small.training and small.load_in == load_in


@torch.no_grad()
def test_masks_stay_near_and_are_not_the_same(folder: Path, load_in: str, collate: Callable[..., Batch]) -> None:
    batch = collate(0, 3, 10)
    plain, small = load_model(folder)[0], load_model(folder, load_in=load_in)[0]
    expected, found = (torch.cat([one.flatten() for one in model(batch).mask_logits]) for model in (plain, small))
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < 0.2


def test_half_precision_is_kept_beside_what_is_quantised(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    small = load_model(folder, dtype=torch.bfloat16, load_in="4bit")[0]
    assert small.dtype == small.mask_decoder.parameters().__next__().dtype == torch.bfloat16
    layer = small.language_model.model.layers[0].mlp.up_proj
    assert layer.compute_dtype == torch.bfloat16 and layer.weight.dtype == torch.uint8


# Adapters


@torch.no_grad()
def test_adapters_are_merged_before(
    tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer, load_in: str, collate: Callable[..., Batch]
) -> None:
    tiny_config.lora = lora_settings(2, 8.0, 0.0, ["q_proj", "down_proj", "lm_head"])
    torch.manual_seed(0)
    adapted = PixDLMForCausalLM(tiny_config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    save_model(tmp_path / "adapted", adapted, tokenizer, adapted.state_dict(), {})
    merge_lora(adapted.language_model)
    adapted.config.lora = None
    save_model(tmp_path / "merged", adapted, tokenizer, adapted.state_dict(), {})
    a, b = (load_model(tmp_path / name, load_in=load_in)[0] for name in ("adapted", "merged"))
    assert a.config.lora is None and not [name for name, _ in a.named_parameters() if "lora" in name]
    batch = collate(0, 3)
    assert all(torch.equal(x, y) for x, y in zip(a(batch).mask_logits, b(batch).mask_logits, strict=True))


def test_an_adapter_that_is_not_finite_is_told_with_the_folder(
    tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer
) -> None:
    tiny_config.lora = lora_settings(2, 8.0, 0.0, ["q_proj"])
    broken = PixDLMForCausalLM(tiny_config)
    broken.language_model.model.layers[1].self_attn.q_proj.lora_B.default.weight.data.fill_(float("nan"))
    save_model(tmp_path / "broken", broken, tokenizer, broken.state_dict(), {})
    with pytest.raises(UserError, match="broken: .*NaNs"):
        load_model(tmp_path / "broken", load_in="int8")


# Memory


def test_loading_holds_one_matrix_unquantised_at_a_time(
    tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer
) -> None:
    pytest.importorskip("bitsandbytes")
    text = {**tiny_config.text_config.to_dict(), "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    config = PixDLMConfig.from_dict({**tiny_config.to_dict(), "text_config": {**text, "head_dim": 128}})
    large = PixDLMForCausalLM(config)
    save_model(tmp_path / "large", large, tokenizer, large.state_dict(), {})
    of_layers = sum(p.nbytes for n, p in large.named_parameters() if is_decoder_matrix(n.rpartition(".")[0]))
    rest = sum(p.nbytes for p in large.parameters()) - of_layers
    one, mapped = 4 * 256 * 1024, (tmp_path / "large" / "model.safetensors").stat().st_size
    assert of_layers > 15 * one
    for load_in, share in ((None, 1), ("8bit", 1 / 4), ("4bit", 1 / 7.5)):
        with LiveBytes([]) as live:
            load_pretrained(PixDLMForCausalLM, tmp_path / "large", load_in=load_in)
        peak = live.peak - mapped  # of the file, which is read page by page
        expected = rest + share * of_layers
        rounding = 0 if load_in is None else 3 * one  # a matrix, and what rounding it takes
        assert 0.95 * expected < peak < 1.05 * expected + rounding, load_in


# What is refused


@pytest.mark.parametrize(
    ("load_in", "device", "dtype", "told"),
    [
        ("3bit", CPU, torch.float32, "--load-in is '3bit'; known are 8bit, 4bit, int8"),
        ("int8", GPU, torch.float32, "int8 is for a CPU in fp32; use --device cpu --precision fp32"),
        ("int8", CPU, torch.bfloat16, "int8 is for a CPU in fp32"),
        ("4bit", MAC, torch.float32, "4bit runs on CPUs and NVIDIA GPUs, not on mps; leave it out"),
    ],
)
def test_what_cannot_run_is_refused(load_in: str, device: torch.device, dtype: torch.dtype, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_load_in(load_in, device, dtype)
    check_load_in(None, device, dtype)


def test_a_missing_package_is_named_before_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").write_bytes(b"not read")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for load_in in ("8bit", "4bit"):
        with pytest.raises(UserError, match=f"--load-in {load_in} needs bitsandbytes; pip install 'bitsandbytes"):
            PixDLM.from_pretrained(folder, device="cpu", load_in=load_in)


def test_a_quantised_model_is_neither_trained_nor_saved_nor_cast(
    folder: Path, load_in: str, tokenizer: PixTokenizer, tmp_path: Path
) -> None:
    small = load_model(folder, load_in=load_in)[0]
    out = tmp_path / "out"
    for what, attempt in {
        "trained": small.train,
        "cast": lambda: small.cast(torch.bfloat16),
        "saved": lambda: small.save_pretrained(out),
        "saved, merged or exported": small.state_dict,
        "saved, merged": lambda: save_own(out, small, tokenizer, {}, False),
        "merged or exported": lambda: save_published(out, small, tokenizer, {}),
    }.items():
        with pytest.raises(UserError, match=f"loaded in {load_in} cannot be .*{what}.*; load it without --load-in"):
            attempt()
    assert not out.exists() and not small.eval().training
    if load_in != "int8":
        with pytest.raises(ValueError, match="cannot cast a bitsandbytes model"):
            small.to(torch.bfloat16)


def test_other_ways_of_loading_do_not_take_the_option_in_silence(folder: Path) -> None:
    with pytest.raises(TypeError, match="unknown options load_in"):
        PixDLMForCausalLM.from_pretrained(folder, load_in="4bit")


# The whole way


def test_pictures_are_asked_about_by_a_quantised_model(tiny_drseg: Path, folder: Path, load_in: str) -> None:
    picture = next((tiny_drseg / "CODrone" / "DRtest").glob("*.jpg"))
    pixdlm = PixDLM.from_pretrained(folder, device="cpu", load_in=load_in)
    one, two = (pixdlm.segment(picture, "Which car?", max_new_tokens=12) for _ in range(2))
    assert one.text == two.text and one.masks.shape == two.masks.shape
