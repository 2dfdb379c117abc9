"""The samples of an evaluation: those of a split that can be asked."""

from __future__ import annotations

from typing import Any

from model.processor import PixDLMProcessor
from utils.datasets.base import Sample
from utils.datasets.questions import check_questions
from utils.datasets.registry import load_dataset
from utils.evaluation.protocols import Protocol
from utils.evaluation.results import data_facts


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
    samples = check_questions(every, processor, skip, answer_format=said, skipped=skipped)
    kept = {sample.key for sample in samples}
    samples = samples[: options.limit]
    data = data_facts(options.dataset, options.split, samples, skipped)
    data["unasked"] = [sample.key for sample in every if sample.key not in kept]
    return samples, data
