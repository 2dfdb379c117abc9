"""The samples of an evaluation, those of a split that can be asked, and the controls that they can be asked under."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from model.processor import PixDLMProcessor
from utils.datasets.base import Sample, forced_count
from utils.datasets.questions import check_questions, question_fault
from utils.datasets.registry import load_dataset
from utils.evaluation.controls import SHUFFLED_QUESTIONS, applicable_controls, shuffled_questions
from utils.evaluation.protocols import Protocol
from utils.evaluation.results import data_facts

log = logging.getLogger(__name__)


def read_split(options: Any, processor: PixDLMProcessor, protocol: Protocol) -> tuple[list[Sample], dict[str, Any]]:
    """The samples, and the facts about them that results name.

    Args:
        options: of eval.py.
        processor: of the model.
        protocol: how the model is asked.

    Raises:
        UserError: the data set cannot be read.
        BadRecord: a record cannot be used, unless bad ones are skipped.
    """
    skipped: list[str] = []
    skip = options.skip_bad_records
    every = load_dataset(
        options.data, options.split, options.dataset, options.polygons, skip, options.orientation, skipped
    )
    said = protocol.answer_format(processor.config.answer_format)
    # Not told under `skipped`, which scoring finds again without the model: their keys are `unasked`.
    samples = check_questions(every, processor, skip, answer_format=said)
    kept = {sample.key for sample in samples}
    samples = samples[: options.limit]
    data = data_facts(options.dataset, options.split, samples, skipped)
    data["unasked"] = [sample.key for sample in every if sample.key not in kept]
    return samples, data


def askable_controls(samples: Sequence[Sample], processor: PixDLMProcessor, protocol: Protocol) -> tuple[str, ...]:
    """The controls that apply to the samples; shuffled questions are left out, which the log says, where one does not
    fit beside the masks of the record that gets it."""
    controls = applicable_controls(samples, protocol.seed)
    if SHUFFLED_QUESTIONS not in controls:
        return controls
    said = protocol.answer_format(processor.config.answer_format)
    for sample, question in zip(samples, shuffled_questions(samples, protocol.seed), strict=True):
        masks = forced_count(sample, processor.config.single_target)
        fault = question_fault(replace(sample, question=question), masks, processor, said)
        if fault:
            log.warning("no control %s: %s would be asked this: %s", SHUFFLED_QUESTIONS, sample.name, fault)
            return tuple(one for one in controls if one != SHUFFLED_QUESTIONS)
    return controls
