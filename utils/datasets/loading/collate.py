"""Samples -> Batch: pictures decoded once, prompts padded, targets drawn. Runs in DataLoader workers.

Shape legend: I pictures, Q questions, L prompt tokens, T question tokens, K targets of a question.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config import PixDLMConfig
from model.inputs.batch import Batch, pad
from model.inputs.images import Geometry, clip_pixels, read_frame, sam_pixels
from model.language.tokens import IGNORE_INDEX, PAD_ID, PixTokenizer, Prompt
from utils.datasets.base import Flip, Sample, target_masks
from utils.datasets.loading.flips import flip
from utils.runtime.errors import UserError


class BadSample(UserError):
    """A sample that no batch can be made of.

    A DataLoader raises a worker's error anew in the main process, with the worker's traceback for its
    message; of that only the message itself is kept, so that the user reads the same line either way.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class Collator:
    """Makes a `Batch` of samples; every distinct picture is decoded once.

    Args:
        config: tells geometry, sizes and the longest sequence.
        tokenizer: of the model.
        answered: prompts with the answer (training, forced evaluation) or ending where it begins.
        cut: cut prompts to `max_sequence`, as training does; else only the language model sets a limit.
        mask_side: draw targets in frames of at most so many pixels on the longer side, for training; None
            keeps the frame's size, which evaluation needs and large frames make dear.
    """

    def __init__(
        self,
        config: PixDLMConfig,
        tokenizer: PixTokenizer,
        answered: bool = True,
        cut: bool = False,
        mask_side: int | None = None,
    ) -> None:
        self.config, self.tokenizer, self.answered, self.mask_side = config, tokenizer, answered, mask_side
        longest = config.max_sequence if cut else config.text_config.max_position_embeddings
        self.max_prompt_tokens = longest - (config.image_tokens - 1)  # the placeholder makes way for the image tokens

    def __call__(self, samples: list[Sample]) -> Batch:
        """The batch of `samples`, in their order.

        Raises:
            BadSample: a picture that cannot be decoded, or a question that cannot be asked.
        """
        try:
            return self.collate(samples)
        except UserError as error:
            raise BadSample(str(error)) from error

    def collate(self, samples: list[Sample]) -> Batch:
        """What a call does, with the errors as they come."""
        pictures = list(dict.fromkeys((sample.image_path, sample.mirror) for sample in samples))
        clip, sam, geometries = zip(*(self.read(*picture) for picture in pictures), strict=True)
        index = [pictures.index((sample.image_path, sample.mirror)) for sample in samples]
        masks = [self.draw(sample, geometries[i]) for sample, i in zip(samples, index, strict=True)]
        prompts = [self.prompt(sample, len(mask)) for sample, mask in zip(samples, masks, strict=True)]
        questions = [self.tokenizer.question(sample.question) for sample in samples]
        ids, attention = pad([prompt.ids for prompt in prompts], PAD_ID)
        question_ids, question_mask = pad(questions, PAD_ID)
        return Batch(
            clip_pixels=torch.stack(clip),
            sam_pixels=None if sam[0] is None else torch.stack(sam),
            image_index=torch.tensor(index),
            input_ids=ids,
            attention_mask=attention,
            labels=pad([prompt.labels for prompt in prompts], IGNORE_INDEX)[0],
            question_ids=question_ids,
            question_mask=question_mask,
            masks=masks,
            geometries=list(geometries),
            samples=samples,
        )

    def read(self, path: Path, mirror: Flip) -> tuple[Tensor, Tensor | None, Geometry]:
        """What both networks see of a picture; the frame itself is let go before the next one is decoded."""
        image, geometry = read_frame(path, self.config)
        image = flip(image, mirror, axes=(1, 0))
        return clip_pixels(image, self.config), sam_pixels(image, self.config), geometry

    def draw(self, sample: Sample, geometry: Geometry) -> Tensor:
        """uint8[K, H, W]; the union as one target where the model answers with one.

        A target too small to show at `mask_side` takes every pixel that it touches there.
        """
        frame = geometry.height, geometry.width
        shrinks = self.mask_side is not None and self.mask_side < max(frame)
        height, width = geometry.scaled(self.mask_side) if shrinks else frame
        masks = target_masks(sample, height, width, merge=self.config.single_target)
        if shrinks and not masks.any(axis=(1, 2)).all():
            whole = target_masks(sample, *frame, merge=self.config.single_target)
            for k in np.flatnonzero(~masks.any(axis=(1, 2))):
                rows, columns = whole[k].nonzero()
                masks[k, rows * height // frame[0], columns * width // frame[1]] = 1
        return torch.from_numpy(flip(masks, sample.mirror, axes=(2, 1)))

    def prompt(self, sample: Sample, targets: int) -> Prompt:
        """The sample's conversation, cut where there is no more room.

        Raises:
            UserError: the question has a special token in it, or is so long that the cut takes a
                [SEG] token.
        """
        where = f"{sample.dataset} record {sample.record_id!r}"
        try:
            prompt = self.tokenizer.prompt(sample.question, targets, self.answered)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        # Of an answer only `</s>` may go: without a [SEG] token the masks after it mean the wrong
        # targets. The published code cuts in silence.
        needed = len(prompt.ids) - (1 if self.answered else 0)
        if needed > self.max_prompt_tokens:
            raise UserError(
                f"{where}: its prompt has {needed} tokens, {self.max_prompt_tokens} fit beside the image; "
                "shorten the question"
            )
        return Prompt(prompt.ids[: self.max_prompt_tokens], prompt.labels[: self.max_prompt_tokens])
