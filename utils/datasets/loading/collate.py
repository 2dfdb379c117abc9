"""Samples -> Batch: pictures decoded once, prompts padded, targets drawn. Runs in DataLoader workers.

Shape legend: I pictures, Q questions, L prompt tokens, T question tokens, K targets of a question.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.inputs.images import Frame, Geometry, frame_of
from model.language.answers import SEG
from model.language.tokens import PixTokenizer
from model.processor import PixDLMProcessor
from utils.datasets.base import Flip, Sample, sample_words, target_count, target_masks
from utils.datasets.loading.flips import flip_array
from utils.runtime.errors import UserError


class BadSample(UserError):
    """A sample that cannot be collated.

    A DataLoader raises a worker's error again in the main process, with the worker's traceback in its message;
    only the message proper is kept, so that it reads the same with and without workers.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class Collator:
    """Makes a `Batch` of samples: the processor's, with targets; every distinct picture is decoded once.

    Args:
        config: of the model.
        tokenizer: of the model.
        answered: prompts with the [SEG] groups (training, teacher-forced evaluation) or ending before them.
        truncate: cut prompts to `max_sequence`, as training does; else only the language model's context limits
            them.
        answer_format: which words of the annotated answers stand before the [SEG] groups.
        mask_side: longer side in pixels at which targets are drawn at most, for training; None
            keeps the frame's size, which evaluation needs and which is expensive for large frames.
    """

    def __init__(
        self,
        config: PixDLMConfig,
        tokenizer: PixTokenizer,
        answered: bool = True,
        truncate: bool = False,
        mask_side: int | None = None,
        answer_format: str = SEG,
    ) -> None:
        self.processor = PixDLMProcessor(config, tokenizer, truncate)
        self.config, self.answered, self.mask_side = config, answered, mask_side
        self.answer_format = answer_format

    def __call__(self, samples: list[Sample]) -> Batch:
        """The batch of `samples`, in their order.

        Raises:
            BadSample: a picture cannot be decoded, or a question is empty, too long or has a special token.
        """
        try:
            return self.collate(samples)
        except UserError as error:
            raise BadSample(str(error)) from error

    def collate(self, samples: list[Sample]) -> Batch:
        """`__call__`, with the errors as they are raised."""
        shown = [(sample.image_path, sample.upright, sample.flip) for sample in samples]
        pictures = list(dict.fromkeys(shown))
        index = [pictures.index(one) for one in shown]
        batch = self.processor.batch(
            (self.frame(*picture) for picture in pictures),
            index,
            [sample.question for sample in samples],
            [self.target_count(sample) for sample in samples] if self.answered else None,
            [sample.name for sample in samples],
            [sample_words(sample, self.answer_format) for sample in samples],
        )
        batch.masks = [self.masks(sample, batch.geometries[i]) for sample, i in zip(samples, index, strict=True)]
        batch.has_ignored_pixels = any(sample.ignore is not None for sample in samples)
        batch.samples = samples
        return batch

    def target_count(self, sample: Sample) -> int:
        """Number of masks that answer a sample; 1 at most for a model with `single_target`."""
        return target_count(sample, self.config.single_target)

    def frame(self, path: Path, upright: bool, flip: Flip) -> Frame:
        """A picture as the networks read it, rotated and flipped as its samples say."""
        frame = frame_of(path, self.config, upright)
        return replace(frame, pixels=flip_array(frame.pixels, flip, axes=(1, 0)))

    def masks(self, sample: Sample, geometry: Geometry) -> Tensor:
        """uint8[K, H, W] of 0, 1 and IGNORE_LABEL.

        A target that vanishes at `mask_side` covers every pixel that it touches there.
        """
        frame = geometry.height, geometry.width
        shrinks = self.mask_side is not None and self.mask_side < max(frame)
        height, width = geometry.scaled(self.mask_side) if shrinks else frame
        masks = target_masks(sample, height, width, merge=self.config.single_target)
        vanished = np.flatnonzero(~(masks == 1).any(axis=(1, 2))) if shrinks else ()
        if len(vanished):
            whole = target_masks(sample, *frame, merge=self.config.single_target)
            for k in vanished:
                rows, columns = (whole[k] == 1).nonzero()
                masks[k, rows * height // frame[0], columns * width // frame[1]] = 1
        return torch.from_numpy(flip_array(masks, sample.flip, axes=(2, 1)))
