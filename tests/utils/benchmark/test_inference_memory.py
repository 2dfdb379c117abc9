"""utils.benchmark.inference_memory: counted sizes against those of models that are really loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM, load_model
from model.presets import native_config
from model.quantization import decoder_matrices
from utils.benchmark.inference_memory import COLUMNS, GIB, cache_bytes, inference_report, inference_rows, weight_bytes
from utils.cli.benchmark_options import parse_benchmark


def test_weights_of_a_plain_model_are_all_counted_once(tiny_model: PixDLMForCausalLM) -> None:
    all_of_it = sum(one.nbytes for one in [*tiny_model.parameters(), *tiny_model.buffers()])
    layers, others = weight_bytes(tiny_model, None, torch.float32)
    assert layers + others == all_of_it and layers == 2 * 4 * (4 * 32 * 32 + 3 * 32 * 64)


def test_counted_scales_are_those_of_bitsandbytes(
    tmp_path: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer
) -> None:
    pytest.importorskip("bitsandbytes")
    text = {**tiny_config.text_config.to_dict(), "hidden_size": 128, "intermediate_size": 256, "head_dim": 64}
    plain = PixDLMForCausalLM(PixDLMConfig.from_dict({**tiny_config.to_dict(), "text_config": text}))
    save_model(tmp_path / "m", plain, tokenizer, plain.state_dict(), {})
    for load_in in ("8bit", "4bit"):
        stored = 0
        for layer in decoder_matrices(load_model(tmp_path / "m", load_in=load_in)[0].language_model).values():
            stored += layer.weight.nbytes
            if load_in == "8bit":
                stored += layer.weight.SCB.nbytes
            else:
                state = layer.weight.quant_state
                stored += state.absmax.nbytes + state.state2.absmax.nbytes
        assert weight_bytes(plain, load_in, torch.float32)[0] == stored


def test_the_cache_of_seven_billion_parameters_takes_half_a_mebibyte_a_token() -> None:
    assert cache_bytes(native_config(), 3, torch.bfloat16) == 3 * 2**19


def test_rows_of_the_table(tmp_path: Path) -> None:
    args = parse_benchmark(["--config", "mini", "--plan"])
    rows = inference_rows(args, tmp_path / "rows")
    assert list(rows) == ["fp32", "bf16", "bf16, 8bit", "bf16, 4bit"]
    assert all(len(one) == len(COLUMNS) and sum(one[:-1]) == one[-1] for one in rows.values())
    layers = [one[0] for one in rows.values()]
    assert layers[0] == 2 * layers[1] and 1.9 < layers[1] / layers[2] < 2 and 3.8 < layers[1] / layers[3] < 3.9
    assert rows["fp32"][1] > 1.9 * rows["bf16, 4bit"][1] == 1.9 * rows["bf16"][1]
    lines = inference_report(args, tmp_path / "lines")
    assert "computed" in lines[0] and f"{rows['fp32'][-1] / GIB:.2f}" in lines[2]
