"""Pictures and questions into the Batch that the model reads; found by transformers' `AutoProcessor`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import PushToHubMixin
from typing_extensions import Self

from model.checkpoints.layouts import local_folder
from model.checkpoints.load import load_tokenizer
from model.config import PixDLMConfig
from model.inputs.batch import Batch, pad
from model.inputs.images import Frame, Geometry, ImageInput, clip_pixels, frame_of, sam_pixels
from model.language.tokens import IGNORE_INDEX, PAD_ID, TOKENIZER_FILE, PixTokenizer, Prompt
from utils.runtime.errors import UserError

PROCESSOR_FILE = "processor_config.json"  # names the class alone; sizes and geometry are in config.json


@dataclass(frozen=True)
class PicturePixels:
    """A picture as the networks read it.

    Args:
        clip: float32[3, S, S], CLIP's input.
        sam: float32[3, P, P], SAM2's; None where the pixel path enlarges CLIP's.
        geometry: of the picture.
    """

    clip: Tensor
    sam: Tensor | None
    geometry: Geometry


class PixDLMProcessor(PushToHubMixin):
    """Makes a `Batch` of pictures and questions, with a model's tokenizer and geometry.

    Args:
        config: of the model: geometry, sizes, longest sequence.
        tokenizer: of the model.
        truncate: cut prompts to `max_sequence`, as training does; else only the language model's context limits
            them.
    """

    def __init__(self, config: PixDLMConfig, tokenizer: PixTokenizer, truncate: bool = False) -> None:
        self.config, self.tokenizer = config, tokenizer
        longest = config.max_sequence if truncate else config.text_config.max_position_embeddings
        self.max_prompt_tokens = longest - (config.image_tokens - 1)  # the placeholder makes way for the image tokens

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> Self:
        """Load the processor of a model folder or of a hub repository.

        Raises:
            UserError: no configuration or tokenizer in it.
        """
        tokenizer, config = load_tokenizer(local_folder(folder, kwargs))
        return cls(config, tokenizer)

    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `tokenizer.model` and the file that names this class; `push_to_hub` as in transformers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.tokenizer.path, folder / TOKENIZER_FILE)
        (folder / PROCESSOR_FILE).write_text(f'{{"processor_class": "{type(self).__name__}"}}\n')
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def __call__(
        self, images: ImageInput | list[ImageInput], questions: str | list[str], targets: int | None = 1
    ) -> Batch:
        """A batch of questions, the i-th about the i-th picture, or all about the only one.

        Args:
            images: a file or its bytes, PIL image, uint8[H, W, 3] or uint8[H, W], or a list of them; duplicates are
                encoded once. Orientation tags of files and PIL images are applied.
            questions: in plain words; one, or a list: as many as there are pictures, or any number about one.
            targets: masks in the teacher-forced answer; None ends the prompt where the answer begins.

        Raises:
            UserError: a picture cannot be decoded, or a question is empty, too long or has a special token.
            TypeError: an image or a question of another kind.
            ValueError: the numbers of pictures and questions differ.
        """
        images, questions = as_list(images, ImageInput, "image"), as_list(questions, str, "question")
        if len(images) == 1:
            images = images * len(questions)
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images and {len(questions)} questions; give one image, or one a question")
        distinct, index = distinct_images(images)
        counts = None if targets is None else [targets] * len(questions)
        return self.batch((frame_of(image, self.config) for image in distinct), index, questions, counts)

    def batch(
        self,
        frames: Iterable[Frame],
        image_index: list[int],
        questions: list[str],
        targets: list[int] | None,
        names: list[str] | None = None,
        words: list[str] | None = None,
    ) -> Batch:
        """A batch of decoded pictures and the questions about them.

        Args:
            frames: read one at a time, so that one decoded picture is in memory.
            image_index: index of each question's picture.
            questions: in plain words.
            targets, names, words: as for `text`.

        Raises:
            UserError: a question is empty, too long or has a special token.
        """
        pictures = self.images(frames)
        text = self.text(questions, image_index, pictures.geometries, targets, names, words)
        return replace(text, clip_pixels=pictures.clip_pixels, sam_pixels=pictures.sam_pixels)

    def images(self, frames: Iterable[Frame]) -> Batch:
        """A batch without questions: preprocessed pictures alone."""
        return self.preprocessed([self.preprocess(frame) for frame in frames])

    def preprocess(self, frame: Frame) -> PicturePixels:
        """A decoded picture as the networks read it."""
        pixels = frame.pixels
        return PicturePixels(clip_pixels(pixels, self.config), sam_pixels(pixels, self.config), frame.geometry)

    def preprocessed(self, pictures: Sequence[PicturePixels]) -> Batch:
        """A batch without questions, of pictures that are preprocessed already."""
        nothing = torch.zeros(0, 0, dtype=torch.long)
        return Batch(
            clip_pixels=torch.stack([one.clip for one in pictures]),
            sam_pixels=None if pictures[0].sam is None else torch.stack([one.sam for one in pictures]),
            image_index=torch.zeros(0, dtype=torch.long),
            input_ids=nothing,
            attention_mask=nothing.bool(),
            labels=nothing,
            question_ids=nothing,
            question_mask=nothing.bool(),
            geometries=[one.geometry for one in pictures],
        )

    def text(
        self,
        questions: list[str | None],
        image_index: list[int],
        geometries: list[Geometry],
        targets: list[int] | None,
        names: list[str] | None = None,
        words: list[str] | None = None,
    ) -> Batch:
        """A batch without pixels, for pictures that are encoded already.

        Args:
            questions: in plain words; None for a blank (a control).
            image_index: index of each question's picture.
            geometries: of the pictures.
            targets: masks in each question's teacher-forced answer; None ends prompts before the [SEG] groups.
            names: of each question, for errors; default: the question itself.
            words: that each answer begins with; default: none.

        Raises:
            UserError: a question is empty, too long or has a special token.
        """
        names = names or [f"question {question!r}" for question in questions]
        counts = [0] * len(questions) if targets is None else targets
        asked = zip(questions, counts, names, words or [""] * len(questions), strict=True)
        prompts = [
            self.prompt(question, count, targets is not None, name, said) for question, count, name, said in asked
        ]
        ids, attention = pad([prompt.ids for prompt in prompts], PAD_ID)
        bare = [self.bare_question(question, name) for question, name in zip(questions, names, strict=True)]
        question_ids, question_mask = pad(bare, PAD_ID)
        batch = Batch(
            clip_pixels=None,
            sam_pixels=None,
            image_index=torch.tensor(image_index),
            input_ids=ids,
            attention_mask=attention,
            labels=pad([prompt.labels for prompt in prompts], IGNORE_INDEX)[0],
            question_ids=question_ids,
            question_mask=question_mask,
            geometries=geometries,
        )
        batch.token_positions(self.config)  # here, where the host has the prompts: in training a worker's
        return batch

    def prompt(self, question: str | None, targets: int, answered: bool, name: str, words: str = "") -> Prompt:
        """The conversation about a question, truncated to `max_prompt_tokens`.

        Raises:
            UserError: the question is empty, has a special token or is so long that a [SEG] token would be cut
                off; the message begins with `name`.
        """
        try:
            prompt = self.tokenizer.prompt(question, targets, answered, words)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        # Only `</s>` may be cut off: without a [SEG] token later masks would be matched to wrong targets.
        # The published code truncates silently.
        # What is still to be written needs room for a token at least.
        needed, limit = len(prompt.ids) + (-1 if answered else 1), self.max_prompt_tokens
        if needed > limit:
            cure = (
                "shorten question or answer, or train with a larger max_sequence" if words else "shorten the question"
            )
            raise UserError(f"{name}: its prompt has {needed} tokens, {limit} fit beside the image; {cure}")
        return Prompt(prompt.ids[:limit], prompt.labels[:limit])

    def check_question(self, question: str, name: str) -> None:
        """Refuse a question that `text` would, before there is a picture; the message begins with `name`.

        Raises:
            UserError: it is empty, too long or has a special token.
        """
        self.prompt(question, 0, answered=False, name=name)
        self.bare_question(question, name)

    def bare_question(self, question: str | None, name: str) -> list[int]:
        """Ids of the question alone.

        Raises:
            UserError: it is none; it begins with `name`.
        """
        try:
            return self.tokenizer.question(question)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error


def as_list(value: Any, kinds: Any, what: str) -> list[Any]:
    """A value that may stand alone or in a list, as a list.

    Raises:
        TypeError: neither it nor its entries are of one of the kinds; `what` is in the message.
    """
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    wrong = [one for one in listed if not isinstance(one, kinds)]
    if wrong:
        raise TypeError(f"{what}s are expected, alone or in a list; got {type(wrong[0]).__name__}")
    return listed


def distinct_images(images: list[ImageInput]) -> tuple[list[ImageInput], list[int]]:
    """Each picture once, in the order of first appearance, and the index of every entry's picture."""
    keys = [image if isinstance(image, (str, Path)) else id(image) for image in images]
    indices = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    first = dict(zip(reversed(keys), reversed(images), strict=True))
    return [first[key] for key in indices], [indices[key] for key in keys]
