"""Pictures and questions in, masks out: `PixDLM.from_pretrained(...).segment(image, question)`.

Shape legend: K masks of one question, H and W of a picture, I pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from model.answering import NO_SEG, OK, Answer, write_answers, written_answers
from model.checkpoints.backbones import Backbones
from model.checkpoints.layouts import local_folder
from model.inputs.images import Geometry, ImageInput, Picture, frame_logits, frame_of
from model.language.decoding import Decoding
from model.masks import confidence, encode_mask, mask_box
from model.pixdlm import ImageFeatures, PixDLMForCausalLM, load_model
from model.processor import PixDLMProcessor, as_list, distinct_images
from utils.runtime.distributed import pick_device
from utils.runtime.errors import UserError
from utils.runtime.precision import inference_dtype


@dataclass(frozen=True)
class Segmentation:
    """The answer to one question about one picture; K is 0 where the model wrote no whole [SEG] group.

    Args:
        masks: bool[K, H, W], in the picture's own pixels.
        scores: float32[K], the mean probability of a mask's foreground, 0 where it is empty.
        boxes: float32[K, 4], x, y, width and height in pixels; zeros where a mask is empty.
        text: the generated answer.
        union_score: the score of the union of all masks.
        status: "ok"; "no_seg", the model wrote no [SEG] token, which is how it says that nothing answers the question;
            "broken", a [SEG] group is incomplete.
    """

    masks: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    text: str
    union_score: float
    status: str = OK

    @property
    def no_target(self) -> bool:
        """Whether the model says that nothing in the picture answers the question."""
        return self.status == NO_SEG

    @property
    def union(self) -> np.ndarray:
        """bool[H, W], all masks together."""
        return self.masks.any(axis=0)


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
        **hub: Any,
    ) -> Self:
        """Load a model from a folder of any kind that `model/checkpoints/README.md` names, or from the hub.

        Args:
            source: the folder, or `owner/name` on the hub.
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N", or a torch.device.
            dtype: "auto" (bf16 on a GPU, fp32 on a CPU), "fp32", "bf16", "fp16", or a torch.dtype.
            backbones: files that a published folder does not hold.
            hub: the hub's `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            UserError: no model there, a tensor is missing, surplus or misshapen, or no such device or dtype.
            TypeError: an unknown option of the hub.
        """
        device = pick_device(device) if isinstance(device, str) else device
        dtype = inference_dtype(dtype, device) if isinstance(dtype, str) else dtype
        model, tokenizer = load_model(local_folder(source, hub), device, dtype, backbones)
        if hub:
            raise TypeError(f"from_pretrained: unknown options {', '.join(hub)}")
        return cls(model, PixDLMProcessor(model.config, tokenizer))

    @torch.inference_mode()
    def encode(self, images: ImageInput | list[ImageInput]) -> ImageFeatures:
        """Encode pictures once, for any number of questions about them.

        Args:
            images: a file, PIL image, uint8[H, W, 3] or uint8[H, W], or a list of them. Orientation tags of files
                and PIL images are applied: masks lie in the picture as viewers show it.

        Raises:
            UserError: a picture cannot be decoded.
            TypeError: an image of another kind.
        """
        frames = (frame_of(image, self.model.config) for image in as_list(images, ImageInput, "image"))
        batch = self.processor.images(frames)
        return self.model.encode_images(batch.to(self.model.device, self.model.dtype))

    @torch.inference_mode()
    def segment(
        self,
        image: ImageInput | list[ImageInput] | ImageFeatures,
        question: str | list[str],
        max_new_tokens: int = Decoding.max_new_tokens,
    ) -> Segmentation | list[Segmentation]:
        """Let the model write its answer, and read a mask off every whole [SEG] group in it.

        Args:
            image: as for `encode`, or the features that `encode` returned.
            question: one, or a list: as many as there are pictures, or any number about one. All are answered
                in one batch.
            max_new_tokens: longer answers are truncated.

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
        batch = self.processor.text(questions, index, features.geometries, targets=None)
        asked = self.model, self.processor.tokenizer, batch, features
        found = written_answers(*asked, write_answers(*asked, Decoding(max_new_tokens=max_new_tokens)))
        check_finite([one.logits for one in found], image_names(image), index)
        answers = [
            self._segmentation(one, features.geometries[picture]) for one, picture in zip(found, index, strict=True)
        ]
        return answers if isinstance(question, (list, tuple)) or isinstance(image, (list, tuple)) else answers[0]

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

    def _segmentation(self, answer: Answer, geometry: Geometry) -> Segmentation:
        """An answer in the picture's own pixels."""
        if not len(answer.logits):
            empty, boxes = np.zeros((0, geometry.height, geometry.width), bool), np.zeros((0, 4), np.float32)
            return Segmentation(empty, np.zeros(0, np.float32), boxes, answer.text, 0.0, answer.status)
        framed = frame_logits(answer.logits.float(), geometry, self.model.config)
        masks = (framed > 0).cpu().numpy()
        return Segmentation(
            masks=masks,
            scores=np.array([confidence(one) for one in framed], np.float32),
            boxes=np.array([mask_box(encode_mask(mask)) or (0, 0, 0, 0) for mask in masks], np.float32),
            text=answer.text,
            union_score=confidence(framed.amax(dim=0)),
            status=answer.status,
        )


def image_names(images: ImageInput | list[ImageInput] | ImageFeatures) -> list[str]:
    """Names of the distinct pictures for error messages: the file, else "image" and its index."""
    if isinstance(images, ImageFeatures):
        return [f"image {i}" for i in range(len(images))]
    distinct, _ = distinct_images(as_list(images, ImageInput, "image"))
    return [
        str(one.path if isinstance(one, Picture) else one) if isinstance(one, (str, Path, Picture)) else f"image {i}"
        for i, one in enumerate(distinct)
    ]


def check_finite(logits: list[Tensor], names: list[str], index: list[int]) -> None:
    """Refuse non-finite mask logits, which would pass for empty masks.

    Raises:
        UserError: naming the first such picture.
    """
    for one, picture in zip(logits, index, strict=True):
        if not torch.isfinite(one).all():
            raise UserError(f"{names[picture]}: the mask's logits are not finite; use fp32 (--precision fp32)")
