"""Answers in words, from the data set's text into prompts, losses, results and back from what a model writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.inputs.batch import Batch
from model.language.tokens import SEG_TOKENS, PixTokenizer
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from utils.cli.train_options import TrainArgs
from utils.datasets.base import BadRecord, Sample
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.evaluation.collate import EvaluationCollator
from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.predict import Loading, predict
from utils.evaluation.protocols import FORCED, GIVEN_REASONING, NO_REASONING, Protocol
from utils.training.run import load_splits, mirrored
from utils.training.setup import build_training_model, read_config

SAID = "<answer>It.</answer>"


@pytest.fixture
def samples(tiny_drseg: Path) -> list[Sample]:
    return load_dataset(tiny_drseg, "test")


def batch_of(model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample], said: str) -> Batch:
    return Collator(model.config, tokenizer, answer_format=said)(samples)


def test_words_stand_in_the_prompts_of_a_batch(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    batch = batch_of(tiny_model, tokenizer, samples[:3], "answer")
    for row, sample in enumerate(samples[:3]):
        expected = tokenizer.prompt(sample.question, words=SAID)
        assert batch.input_ids[row][batch.attention_mask[row]].tolist() == expected.ids
        assert batch.labels[row][batch.attention_mask[row]].tolist() == expected.labels


def test_the_words_loss_is_weighed_and_added(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    batch = batch_of(tiny_model, tokenizer, samples[:3], "answer")
    one, three = (tiny_model(batch, LossWeights(text=weight)) for weight in (1.0, 3.0))
    assert one.text_loss > 0
    torch.testing.assert_close(three.text_loss, 3 * one.text_loss)
    torch.testing.assert_close(three.loss - one.loss, 2 * one.text_loss)
    assert one.ce_loss == three.ce_loss
    assert tiny_model(batch_of(tiny_model, tokenizer, samples[:3], "seg"), LossWeights()).text_loss is None


def test_the_data_sets_words_stand_in_prompts_only_where_they_are_given_and_results_say_so(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    for reasoning, said in ((NO_REASONING, ""), (GIVEN_REASONING, "<answer> It. </answer>")):
        tiny_model.config.answer_format, found = "answer", []
        asked = Protocol(FORCED, reasoning)
        predict(tiny_model, tokenizer, samples[:3], asked, Loading(), found.extend)
        assert {one["text"] for one in found} == {" ".join(SEG_TOKENS)} and len(found) == 3
        prompts = EvaluationCollator(tiny_model.config, tokenizer, asked, samples, 3)([samples[:3]]).passes[0]
        ids = prompts.prompts[NO_CONTROL].input_ids[0].tolist()
        text = tokenizer.decode([i for i in ids if i >= 0])
        assert text.endswith(f"ASSISTANT: {said}".rstrip())
        assert asked.described()["uses_ground_truth_text"] == bool(said)


def test_a_run_learns_what_its_options_name(tiny_drseg: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    args = TrainArgs(config="mini", from_scratch=True, tokenizer=str(tokenizer_file), data=str(tiny_drseg), lora_rank=0)
    for targets, expected in ((None, "seg"), ("answer", "answer")):
        named = replace(args, targets=targets)
        assert read_config(named)[0].answer_format == expected
        assert build_training_model(named)[0].config.answer_format == expected
    load_splits(replace(args, targets="answer"))
    with pytest.raises(BadRecord, match="has no reasoning"):  # of the text `<answer>It.</answer>`
        load_splits(replace(args, targets="reasoning"))


def test_a_run_that_goes_on_from_a_folder_keeps_its_answers_unless_others_are_named(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, tmp_path: Path
) -> None:
    from_folder = tmp_path / "folder"
    tiny_model.config.answer_format = "answer"
    tiny_model.save_pretrained(from_folder)
    (from_folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    for targets, expected in ((None, "answer"), ("seg", "seg")):
        args = TrainArgs(init_from=str(from_folder), targets=targets, precision="fp32")
        assert read_config(args)[0].answer_format == expected
        assert build_training_model(args)[0].config.answer_format == expected


def test_answers_of_flipped_pictures_are_checked_too(samples: list[Sample]) -> None:
    sample = replace(samples[0], answer="<answer>The left car.</answer>")
    assert {one.answer for one in mirrored(sample)} == {sample.answer, "<answer>The right car.</answer>"}
