"""Samples -> pictures and prompts to evaluate, without their targets. Runs in DataLoader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.inputs.images import Geometry, frame_of
from model.language.tokens import PixTokenizer
from model.pixdlm import ImageFeatures
from model.processor import PixDLMProcessor
from utils.datasets.base import Sample, forced_count, sample_words
from utils.datasets.loading.collate import BadSample
from utils.evaluation.controls import SWAPPED_IMAGES, asked_questions, other_pictures
from utils.evaluation.protocols import Protocol
from utils.runtime.errors import UserError


@dataclass
class Pass:
    """What one forward pass is about: pictures, and the same questions about them under each control.

    Args:
        samples: Q of them.
        pictures: a batch without questions.
        prompts: for each control a batch without pixels, whose prompts end before the [SEG] groups.
        questions: for each control what is asked; "" for a blank.
        groups: [SEG] groups that are put into each teacher-forced answer.
        swapped: for each picture the one whose image tokens the language model is shown with swapped images.
    """

    samples: list[Sample]
    pictures: Batch
    prompts: dict[str, Batch]
    questions: dict[str, list[str]]
    groups: list[int]
    swapped: list[int]

    def seen(self, features: ImageFeatures, control: str) -> ImageFeatures:
        """The features of the pictures, as the model is shown them under a control."""
        if control != SWAPPED_IMAGES:
            return features
        return replace(features, tokens=features.tokens[self.swapped])


@dataclass
class EvaluationBatch:
    """Passes, and what is written for them together.

    Args:
        passes: in the order of the split.
        writing: for each control the prompts of all passes, as many at once as answers are written at once, about the
            pictures of all passes; empty where nothing is written.
    """

    passes: list[Pass]
    writing: dict[str, list[Batch]]


class EvaluationCollator:
    """Makes an `EvaluationBatch` of the samples of passes; a pass decodes every distinct picture once.

    Args:
        config: of the model.
        tokenizer: of the model.
        protocol: how the model is asked.
        samples: of the split.
        at_once: answers that are written at once.
    """

    def __init__(
        self,
        config: PixDLMConfig,
        tokenizer: PixTokenizer,
        protocol: Protocol,
        samples: Sequence[Sample],
        at_once: int,
    ) -> None:
        self.protocol, self.at_once = protocol, at_once
        self.config, self.processor = config, PixDLMProcessor(config, tokenizer)
        self.answer_format = protocol.answer_format(config.answer_format)
        self.asked = {control: asked_questions(samples, control, protocol.seed) for control in protocol.controls}
        self.partners = other_pictures(samples) if SWAPPED_IMAGES in protocol.controls else {}
        self.upright = {sample.image_path: sample.upright for sample in samples}
        self.place = {sample.index: i for i, sample in enumerate(samples)}

    def __call__(self, passes: list[list[Sample]]) -> EvaluationBatch:
        """The batch of these passes, each of the samples that are listed, in their order.

        Raises:
            BadSample: a picture cannot be decoded, or a prompt cannot be made.
        """
        try:
            collated = [self.collate(samples) for samples in passes]
            writing = {control: self.together(collated, control) for control in self.asked}
            return EvaluationBatch(collated, writing if self.protocol.writes else {})
        except UserError as error:
            raise BadSample(str(error)) from error

    def collate(self, samples: list[Sample]) -> Pass:
        """One pass, with the errors as they are raised."""
        paths = list(dict.fromkeys(sample.image_path for sample in samples))
        paths = list(dict.fromkeys([*paths, *(self.partners[path] for path in paths if path in self.partners)]))
        pictures = self.processor.images(frame_of(path, self.config, self.upright[path]) for path in paths)
        place = {path: i for i, path in enumerate(paths)}
        index = [place[sample.image_path] for sample in samples]
        prompts = {control: self.prompts(samples, control, index, pictures.geometries) for control in self.asked}
        return Pass(
            samples=samples,
            pictures=pictures,
            prompts=prompts,
            questions={control: [one or "" for one in self.questions(samples, control)] for control in self.asked},
            groups=[forced_count(sample, self.config.single_target) for sample in samples],
            swapped=[place.get(self.partners.get(path), i) for path, i in place.items()],
        )

    def questions(self, samples: list[Sample], control: str) -> list[str | None]:
        """What is asked of samples under a control."""
        return [self.asked[control][self.place[sample.index]] for sample in samples]

    def prompts(self, samples: list[Sample], control: str, index: list[int], geometries: list[Geometry]) -> Batch:
        """Prompts that end before the [SEG] groups, about pictures by their index."""
        names = [sample.name for sample in samples]
        words = [sample_words(sample, self.answer_format) for sample in samples]
        return self.processor.text(self.questions(samples, control), index, geometries, None, names, words)

    def together(self, passes: list[Pass], control: str) -> list[Batch]:
        """The prompts of several passes, `at_once` a batch."""
        samples = [sample for one in passes for sample in one.samples]
        geometries = [geometry for one in passes for geometry in one.pictures.geometries]
        index, before = [], 0
        for one in passes:
            index += (one.prompts[control].image_index + before).tolist()
            before += len(one.pictures.geometries)
        starts = range(0, len(samples), self.at_once)
        return [
            self.prompts(samples[i : i + self.at_once], control, index[i : i + self.at_once], geometries)
            for i in starts
        ]


def with_pixels(prompts: Batch, pictures: Batch) -> Batch:
    """A batch of prompts that has its pictures' pixels with it."""
    return replace(prompts, clip_pixels=pictures.clip_pixels, sam_pixels=pictures.sam_pixels)
