"""The answer to one question about one picture, in the picture's own pixels.

Shape legend: K masks of one question, H and W of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from model.answering import NO_SEG, OK, Answer
from model.config import PixDLMConfig
from model.inputs.images import Geometry, ImageInput, frame_logits, whole_pixels
from model.masks import confidence, encode_mask, mask_area, mask_box, paint_masks
from model.polygons import mask_polygons


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
        question: that was asked.
        image: that it was asked about, as it was given; None where that is not known.
    """

    masks: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    text: str
    union_score: float
    status: str = OK
    question: str = ""
    image: ImageInput | None = field(default=None, repr=False, compare=False)

    @property
    def no_target(self) -> bool:
        """Whether the model says that nothing in the picture answers the question."""
        return self.status == NO_SEG

    @cached_property
    def union(self) -> np.ndarray:
        """bool[H, W], all masks together."""
        return self.masks.any(axis=0)

    @cached_property
    def rles(self) -> list[dict[str, Any]]:
        """COCO run lengths of every mask, as JSON takes them."""
        return [encode_mask(mask) for mask in self.masks]

    def polygons(self, tolerance: float = 0.0) -> list[list[np.ndarray]]:
        """For every mask its polygons without holes, int[N, 2] each: corners (x, y) of pixels.

        Args:
            tolerance: pixels by which outlines may leave the mask to have fewer corners; 0 is exact, which
                pycocotools fills to the same mask.
        """
        return [mask_polygons(mask, tolerance) for mask in self.masks]

    def overlay(self, image: ImageInput | None = None) -> np.ndarray:
        """uint8[H, W, 3], the picture with every mask tinted and outlined, each in a colour of its own.

        Args:
            image: to paint on; default: the one that was asked about.

        Raises:
            ValueError: no picture is known, or its size is not that of the masks.
            UserError: it cannot be decoded.
        """
        image = self.image if image is None else image
        if image is None:
            raise ValueError("the answer does not know its picture; pass it: to_pil(image)")
        pixels = whole_pixels(image)
        if pixels.shape[:2] != self.masks.shape[1:]:
            raise ValueError(f"the picture has {pixels.shape[:2]} pixels, the masks {self.masks.shape[1:]}")
        return paint_masks(pixels, self.masks)

    def to_pil(self, image: ImageInput | None = None) -> Image.Image:
        """`overlay` as a PIL image."""
        return Image.fromarray(self.overlay(image))

    def to_coco(
        self, image_id: int = 1, category_id: int = 1, first_id: int = 1, tolerance: float | None = 0.0
    ) -> list[dict[str, Any]]:
        """COCO annotations, one for each mask that is not empty.

        Args:
            image_id: of the picture.
            category_id: of all of them.
            first_id: of the first; the others' follow.
            tolerance: of `polygons`; None gives run lengths in their place.
        """
        annotations: list[dict[str, Any]] = []
        for mask, rle, score in zip(self.masks, self.rles, self.scores, strict=True):
            if mask.any():
                ids = {"id": first_id + len(annotations), "image_id": image_id, "category_id": category_id}
                annotations.append({**ids, **coco_annotation(mask, rle, float(score), tolerance)})
        return annotations


def coco_annotation(
    mask: np.ndarray, rle: dict[str, Any], score: float, tolerance: float | None = 0.0
) -> dict[str, Any]:
    """What a COCO annotation says of a mask that is not empty, without its ids.

    Args:
        mask: bool or uint8[H, W]
        rle: of the mask.
        score: of the mask.
        tolerance: of its polygons, the one of the largest box first, which readers that take one alone show; None gives
            run lengths in their place.
    """
    outlines = rle
    if tolerance is not None:
        polygons = sorted(mask_polygons(mask, tolerance), key=lambda one: -int(np.ptp(one, axis=0).prod()))
        outlines = [polygon.ravel().tolist() for polygon in polygons]
    return {"segmentation": outlines, "area": mask_area(rle), "bbox": mask_box(rle), "iscrowd": 0, "score": score}


def segmentation(
    answer: Answer, geometry: Geometry, config: PixDLMConfig, question: str = "", image: ImageInput | None = None
) -> Segmentation:
    """An answer in the picture's own pixels.

    Args:
        answer: whose logits are in the network's geometry.
        geometry: of the picture.
        config: of the model.
        question, image: of the `Segmentation`.
    """
    if not len(answer.logits):
        empty, boxes = np.zeros((0, geometry.height, geometry.width), bool), np.zeros((0, 4), np.float32)
        return Segmentation(empty, np.zeros(0, np.float32), boxes, answer.text, 0.0, answer.status, question, image)
    framed = frame_logits(answer.logits.float(), geometry, config)
    masks = (framed > 0).cpu().numpy()
    scores = [confidence(one) for one in framed]
    found = Segmentation(
        masks=masks,
        scores=np.array(scores, np.float32),
        boxes=np.zeros((len(masks), 4), np.float32),
        text=answer.text,
        union_score=scores[0] if len(scores) == 1 else confidence(framed.amax(dim=0)),
        status=answer.status,
        question=question,
        image=image,
    )
    found.boxes[:] = [mask_box(rle) or (0, 0, 0, 0) for rle in found.rles]
    return found
