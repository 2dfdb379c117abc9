"""Pictures and questions in, masks out: `PixDLM.from_pretrained(...).segment(image, question)`."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from model.answering import Answer, write_answers, written_answers
from model.checkpoints.backbones import Backbones
from model.checkpoints.layouts import local_folder
from model.inputs.batch import Batch
from model.inputs.images import ImageInput, Picture, frame_of
from model.language.decoding import Decoding
from model.pixdlm import ImageFeatures, PixDLMForCausalLM, load_model
from model.processor import PixDLMProcessor, as_list, distinct_images
from model.segmentation import Segmentation, segmentation
from utils.runtime.distributed import pick_device
from utils.runtime.errors import UserError
from utils.runtime.precision import full_precision, inference_dtype


class PixDLM:
    """A model and its processor, ready to segment.

    Args:
        model: on its device, in evaluation mode.
        processor: made for the same configuration.
    """

    def __init__(self, model: PixDLMForCausalLM, processor: PixDLMProcessor) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        backbones: Backbones = Backbones(),  # noqa: B008 (frozen)
        load_in: str | None = None,
        **hub: Any,
    ) -> Self:
        """Load a model from a folder of any kind that `model/checkpoints/README.md` names, or from the hub.

        Args:
            source: the folder, or `owner/name` on the hub.
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N", "mps", or a torch.device.
            dtype: "auto" (bf16 on a GPU, fp32 elsewhere), "fp32", "bf16", "fp16", or a torch.dtype.
            backbones: files that a published folder does not hold.
            load_in: quantise the language model's layers: "8bit" or "4bit" (bitsandbytes), "int8" (PyTorch, on a CPU).
            hub: the hub's `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            UserError: no model there, a tensor is missing, surplus or misshapen, or no such device or dtype.
            TypeError: an unknown option of the hub.
        """
        device = pick_device(device) if isinstance(device, str) else device
        dtype = inference_dtype(dtype, device) if isinstance(dtype, str) else dtype
        model, tokenizer = load_model(local_folder(source, hub), device, dtype, backbones, load_in)
        if hub:
            raise TypeError(f"from_pretrained: unknown options {', '.join(hub)}")
        return cls(model, PixDLMProcessor(model.config, tokenizer))

    def encode(self, images: ImageInput | list[ImageInput]) -> ImageFeatures:
        """Encode pictures once, for any number of questions about them.

        Args:
            images: a file or its bytes, PIL image, uint8[H, W, 3] or uint8[H, W], or a list of them. Orientation tags
                of files and PIL images are applied: masks lie in the picture as viewers show it.

        Raises:
            UserError: a picture cannot be decoded.
            TypeError: an image of another kind.
        """
        given = as_list(images, ImageInput, "image")
        frames = (frame_of(image, self.model.config) for image in given)
        return replace(self.encode_batch(self.processor.images(frames)), images=given)

    @torch.inference_mode()
    def encode_batch(self, pictures: Batch) -> ImageFeatures:
        """Encode pictures that are preprocessed already."""
        with full_precision():
            return self.model.encode_images(pictures.to(self.model.device, self.model.dtype))

    def segment(
        self,
        image: ImageInput | list[ImageInput] | ImageFeatures,
        question: str | list[str],
        max_new_tokens: int = Decoding.max_new_tokens,
        on_text: Callable[[str], None] | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Let the model write its answer, and read a mask off every whole [SEG] group in it.

        Args:
            image: as for `encode`, or the features that `encode` returned.
            question: one, or a list: as many as there are pictures, or any number about one. All are answered
                in one batch.
            max_new_tokens: longer answers are truncated.
            on_text: called with the text so far for every token that is written; with one question only.

        Returns:
            one answer, or a list where pictures or questions came in a list

        Raises:
            UserError: a picture or a question cannot be used, or a mask is not finite.
            TypeError: an image or a question of another kind.
            ValueError: the numbers of pictures and questions differ.
        """
        questions = as_list(question, str, "question")
        features, index = self._features(image, len(questions))
        if len(questions) == 1:
            questions = questions * len(index)
        found = self.answers(features, index, questions, Decoding(max_new_tokens=max_new_tokens), on_text)
        images = features.images or [None] * len(features)
        answers = []
        for answer, asked, picture in zip(found, questions, index, strict=True):
            check_finite(answer, name_of(images[picture], picture))
            about = answer, features.geometries[picture], self.model.config
            answers.append(segmentation(*about, asked, images[picture]))
        return answers if isinstance(question, (list, tuple)) or isinstance(image, (list, tuple)) else answers[0]

    def stream(
        self, image: ImageInput | ImageFeatures, question: str, max_new_tokens: int = Decoding.max_new_tokens
    ) -> Iterator[str | Segmentation]:
        """As `segment`, for one question: the text so far after every token, and the answer in the end.

        The model works in a thread of its own, which stops at its next token where the iterator is closed.
        """
        said: queue.Queue[str | Segmentation | BaseException] = queue.Queue()
        closed = threading.Event()

        def heard(text: str) -> None:
            if closed.is_set():
                raise InterruptedError("nobody reads the answer")
            said.put(text)

        def work() -> None:
            try:
                said.put(self.segment(image, question, max_new_tokens, heard))
            except BaseException as error:  # noqa: BLE001 (raised below)
                said.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while isinstance(piece := said.get(), str):
                yield piece
            if isinstance(piece, BaseException):
                raise piece
            yield piece
        finally:
            closed.set()

    @torch.inference_mode()
    def answers(
        self,
        features: ImageFeatures,
        index: list[int],
        questions: list[str],
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """What the model writes to questions, with mask logits in the network's geometry, in one batch.

        Args:
            features: of the pictures.
            index: of each question's picture.
            questions: in plain words.
            decoding: greedy by default.
            on_text: as for `segment`.

        Raises:
            UserError: a question cannot be asked.
        """
        tokenizer = self.processor.tokenizer
        batch = self.processor.text(questions, index, features.geometries, targets=None)
        heard = None if on_text is None else lambda ids: on_text(tokenizer.decode(ids))
        with full_precision():
            written = write_answers(self.model, tokenizer, batch, features, decoding, heard)
            return written_answers(self.model, tokenizer, batch, features, written)

    def _features(
        self, image: ImageInput | list[ImageInput] | ImageFeatures, questions: int
    ) -> tuple[ImageFeatures, list[int]]:
        """The pictures, each encoded once, and the index of every question's picture."""
        if isinstance(image, ImageFeatures):
            features, index = image, list(range(len(image)))
        else:
            distinct, index = distinct_images(as_list(image, ImageInput, "image"))
            features = self.encode(distinct)
        if len(index) == 1:
            index = index * questions
        if questions not in (1, len(index)):
            raise ValueError(f"{len(index)} images and {questions} questions; give one image, or one a question")
        return features, index


def name_of(image: ImageInput | None, number: int) -> str:
    """What an error calls a picture: its file, else "image" and its number."""
    source = image.path if isinstance(image, Picture) else image
    return str(source) if isinstance(source, (str, Path)) else f"image {number}"


def check_finite(answer: Answer, name: str) -> None:
    """Refuse non-finite mask logits, which would pass for empty masks.

    Raises:
        UserError: `name` is in it.
    """
    if not torch.isfinite(answer.logits).all():
        raise UserError(f"{name}: the mask's logits are not finite; use fp32 (--precision fp32)")
