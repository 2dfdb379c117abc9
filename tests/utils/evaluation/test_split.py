"""utils.evaluation.split: the samples of an evaluation, and the facts about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.processor import PixDLMProcessor
from utils.cli.eval_options import EvalArgs
from utils.datasets.registry import load_dataset
from utils.evaluation.protocols import Protocol
from utils.evaluation.results import data_facts
from utils.evaluation.split import read_split


def test_what_cannot_be_asked_is_told_beside_what_cannot_be_read(
    make_drseg: Callable[..., Path],
    make_record: Callable[..., dict[str, Any]],
    tiny_model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
) -> None:
    """The bad records are those that scoring finds again, without the model."""
    records = [make_record("a", questions=["Which [SEG0]?"]), make_record("bad", ann_list=[]), make_record("c"),
               make_record("d")]  # fmt: skip
    root, processor = make_drseg(records), PixDLMProcessor(tiny_model.config, tokenizer)
    options = EvalArgs(model="m", data=str(root), split="test", skip_bad_records=True, limit=1)
    samples, data = read_split(options, processor, Protocol())
    assert [sample.key for sample in samples] == ["c"] and data["unasked"] == ["a"] and data["records"] == 1
    skipped: list[str] = []
    every = load_dataset(root, "test", skip_bad_records=True, skipped=skipped)
    assert len(skipped) == 1 and [sample.key for sample in every] == ["a", "c", "d"]
    assert data == {**data_facts("drseg", "test", samples, skipped), "unasked": ["a"]}
