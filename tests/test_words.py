"""Answers in words, from the data set's text into prompts, losses, results and back from what a model writes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from model.answering import written_answers
from model.inputs.batch import Batch
from model.language.tokens import SEG_TOKENS, PixTokenizer
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM
from utils.cli.eval_options import EvalArgs
from utils.cli.train_options import TrainArgs
from utils.datasets.base import BadRecord, Sample
from utils.datasets.drseg import SPEC
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.evaluation.predict import evaluate
from utils.evaluation.results import protocol
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


def test_a_model_is_evaluated_with_the_words_that_it_has_learnt_and_results_say_so(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample]
) -> None:
    options = asdict(EvalArgs(model="m", data="d"))
    for said, words in (("seg", ""), ("answer", "<answer> It. </answer> ")):
        tiny_model.config.answer_format = said
        texts = {one.text for one in evaluate(tiny_model, tokenizer, samples[:3], 3)}
        assert texts == {words + " ".join(SEG_TOKENS)}
        found = protocol(options, SPEC, 3, tiny_model, torch.float32)
        assert found["uses_ground_truth_text"] == (said != "seg")


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


def test_without_a_group_no_pass_is_made(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Collator(tiny_model.config, tokenizer, answered=False)(samples[:2])
    features, word = tiny_model.encode_images(batch), tokenizer.pieces.encode("car")
    for written, counts in (([word, word], [0, 0]), ([word, word + tokenizer.seg_ids], [0, 1])):
        passes = []
        monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", lambda *_, written=written: written)
        hook = tiny_model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        with torch.no_grad():
            answers = written_answers(tiny_model, tokenizer, batch, features, 4)
        hook.remove()
        assert [len(one.logits) for one in answers] == counts and len(passes) == any(counts)
        side = tiny_model.config.mask_size
        assert all(one.logits.shape[1:] == (side, side) for one in answers)
        assert answers[0].text == "car"
