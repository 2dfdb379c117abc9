"""What only a model's tokenizer can tell of a record: whether its question can be asked and its answer learnt.

Told when the data are loaded, since a run would meet it hours later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from model.language.answers import SEG
from model.processor import PixDLMProcessor
from utils.datasets.base import BadRecord, Sample, forced_count, sample_words
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)


def check_questions(
    samples: list[Sample],
    processor: PixDLMProcessor,
    skip_bad_records: bool = False,
    variants: Callable[[Sample], Iterable[Sample]] | None = None,
    answer_format: str = SEG,
    skipped: list[str] | None = None,
) -> list[Sample]:
    """The samples whose question the processor takes, with as many masks as they have targets in the answer.

    Each distinct question is looked at once.

    Args:
        samples: of a split.
        processor: of the model, cutting prompts where those of the samples will be cut.
        skip_bad_records: leave bad records out with all their questions, counted and listed in the log.
        variants: of a sample, with other words of question and answer, that may be met in its place.
        answer_format: which words of the annotated answers stand before the [SEG] groups.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        BadRecord: a question holds a special token, is too long, shows nothing or is no text that UTF-8 can write,
            unless such records are skipped; file, position and id are named.
        UserError: no sample is left.
    """

    def texts(sample: Sample) -> tuple[str, str | None]:
        return sample.question, None if answer_format == SEG else sample.answer

    faults: dict[tuple[str, str | None, int], str] = {}  # of question, answer, number of masks; "" where there is none
    bad: dict[str, str] = {}  # record -> what is wrong with it
    for sample in samples:
        masks = forced_count(sample, processor.config.single_target)
        key = *texts(sample), masks
        if key not in faults:
            met = {texts(one): one for one in (sample, *(variants(sample) if variants else ()))}
            found = (question_fault(one, masks, processor, answer_format) for one in met.values())
            faults[key] = next(filter(None, found), "")
        if faults[key]:
            bad.setdefault(sample.name, faults[key])
    if not bad:
        return samples
    if not skip_bad_records:
        name, fault = next(iter(bad.items()))
        raise BadRecord(f"{name}: {fault}; mend it, or pass --skip-bad-records to go on without it")
    faulty = [f"{name}: {fault}" for name, fault in bad.items()]
    log.warning("%d bad records skipped:\n  %s", len(bad), "\n  ".join(faulty))
    if skipped is not None:
        skipped += faulty
    kept = [sample for sample in samples if sample.name not in bad]
    if not kept:
        raise UserError(f"{next(iter(bad))}: no record can be asked, this one for: {next(iter(bad.values()))}")
    return [replace(sample, index=i) for i, sample in enumerate(kept)]


def question_fault(sample: Sample, masks: int, processor: PixDLMProcessor, answer_format: str) -> str:
    """Why a question cannot be asked or its answer cannot be learnt, "" where both can."""
    question = sample.question
    short = repr(question) if len(question) <= 60 else f"{question[:57]!r}..."
    try:
        words = sample_words(sample, answer_format)
    except BadRecord as error:
        return f"question {short}: {error.__cause__}"
    try:
        processor.prompt(question, masks, True, f"question {short}", words)
        processor.bare_question(question, f"question {short}")
    except UserError as error:
        return str(error)
    return ""
