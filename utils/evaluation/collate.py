"""Samples -> pictures and prompts to evaluate, without their targets. Runs in DataLoader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.inputs.images import frame_of
from model.language.tokens import PixTokenizer
from model.processor import PixDLMProcessor
from utils.datasets.base import Sample, sample_words, target_count
from utils.datasets.loading.collate import BadSample
from utils.evaluation.controls import SWAPPED_IMAGES, asked_questions, other_pictures
from utils.evaluation.protocols import Protocol
from utils.runtime.errors import UserError


@dataclass
class EvaluationBatch:
    """Pictures, and the same questions about them under each control.

    Args:
        samples: Q of them.
        pictures: a batch without questions.
        prompts: for each control a batch without pixels, whose prompts end before the [SEG] groups.
        questions: for each control what is asked; "" for a blank.
        targets: masks that answer each question.
        swapped: for each picture the one whose image tokens the language model is shown with swapped images.
    """

    samples: list[Sample]
    pictures: Batch
    prompts: dict[str, Batch]
    questions: dict[str, list[str]]
    targets: list[int]
    swapped: list[int]


class EvaluationCollator:
    """Makes an `EvaluationBatch` of samples; every distinct picture is decoded once.

    Args:
        config: of the model.
        tokenizer: of the model.
        protocol: how the model is asked.
        samples: of the split, indexed by `Sample.index`.
    """

    def __init__(
        self, config: PixDLMConfig, tokenizer: PixTokenizer, protocol: Protocol, samples: Sequence[Sample]
    ) -> None:
        self.config, self.processor = config, PixDLMProcessor(config, tokenizer)
        self.answer_format = protocol.answer_format(config.answer_format)
        self.asked = {control: asked_questions(samples, control, protocol.seed) for control in protocol.controls}
        self.partners = other_pictures(samples) if SWAPPED_IMAGES in protocol.controls else {}
        self.upright = {sample.image_path: sample.upright for sample in samples}
        self.place = {sample.index: i for i, sample in enumerate(samples)}

    def __call__(self, samples: list[Sample]) -> EvaluationBatch:
        """The batch of `samples`, in their order.

        Raises:
            BadSample: a picture cannot be decoded, or a prompt cannot be made.
        """
        try:
            return self.collate(samples)
        except UserError as error:
            raise BadSample(str(error)) from error

    def collate(self, samples: list[Sample]) -> EvaluationBatch:
        """`__call__`, with the errors as they are raised."""
        paths = list(dict.fromkeys(sample.image_path for sample in samples))
        paths = list(dict.fromkeys([*paths, *(self.partners[path] for path in paths if path in self.partners)]))
        pictures = self.processor.images(frame_of(path, self.config, self.upright[path]) for path in paths)
        index = [paths.index(sample.image_path) for sample in samples]
        names = [sample.name for sample in samples]
        words = [sample_words(sample, self.answer_format) for sample in samples]
        prompts, questions = {}, {}
        for control, asked in self.asked.items():
            own = [asked[self.place[sample.index]] for sample in samples]
            prompts[control] = self.processor.text(own, index, pictures.geometries, None, names, words)
            questions[control] = [question or "" for question in own]
        return EvaluationBatch(
            samples=samples,
            pictures=pictures,
            prompts=prompts,
            questions=questions,
            targets=[target_count(sample, self.config.single_target) for sample in samples],
            swapped=[paths.index(self.partners.get(path, path)) if self.partners.get(path, path) in paths else i
                     for i, path in enumerate(paths)],
        )  # fmt: skip


def with_pixels(prompts: Batch, pictures: Batch) -> Batch:
    """A batch of prompts that has its pictures' pixels with it."""
    return replace(prompts, clip_pixels=pictures.clip_pixels, sam_pixels=pictures.sam_pixels)
