"""The train files of GranD-f, of three kinds (mbzuai-oryx/groundingLMM@72ed3a8, dataset/gcg_datasets/GranDf_gcg_ds.py).

groundings (written by people; OpenPSG): a list of `{file_name, caption, groundings: {phrase: {token_positives: [start,
    end], rle_masks: [run lengths, …]}}}`; the union of its run lengths is a phrase's mask.
refs (RefCOCOg): a list of `{ID: {img_file_name, caption, refs: [{sentence, segmentation: polygons}]}}`; a sentence
    that the caption does not hold, in whatever case, is passed by.
flickr: a COCO file whose images have a `caption` and whose annotations have `tokens_positive: [[start, end], …]`, of
    which the first counts, `bbox` and `sam_mask` as run lengths. Passed by, as there: captions of under 3 words,
    pictures under 32 pixels, annotations that are to be ignored or whose box is empty.

Phrases stand in the order in which the caption has them, where several begin at one place in that of the file. Quotes
around a caption are cut off; offsets count from there. A caption that no mask belongs to is passed by. GLaMM shortens
RefCOCOg's phrases where they overlap, since it writes marks into the caption; here they stay whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco

from utils.datasets.base import BadRecord
from utils.datasets.checks import checked_picture_name, shortened
from utils.datasets.run_lengths import checked_rle

WORDS, SIDE = 3, 32  # a caption of fewer words, a picture with a shorter side is passed by (flickr)


@dataclass(frozen=True)
class Described:
    """A description as its record has it.

    Args:
        picture: name of its picture.
        text: without marks.
        phrases: that have a mask, in order.
        masks: of each phrase: run lengths, checked, or polygons as they stand in the file.
    """

    picture: str
    text: str
    phrases: tuple[str, ...]
    masks: tuple[Any, ...]


Mark = tuple[int, str, Any]  # where in the caption, phrase, mask
Reader = Callable[[str, Any], Described | None]


def groundings(where: str, record: Any) -> Described | None:
    """A record of people's or OpenPSG's; None where it has no mask."""
    text = _caption(where, record)
    found = record.get("groundings")
    if not isinstance(found, dict):
        raise BadRecord(f"{where}: groundings is {shortened(found)}, expected an object of phrases")
    marks = []
    for phrase, one in found.items():
        named = f"{where}, phrase {shortened(phrase)}"
        if not isinstance(one, dict) or not isinstance(one.get("rle_masks"), list) or not one["rle_masks"]:
            raise BadRecord(f"{named} is {shortened(one)}, expected an object with token_positives and rle_masks")
        start, _ = _span(named, one.get("token_positives"), text)
        parts = [checked_rle(f"{named}, mask {i}", part) for i, part in enumerate(one["rle_masks"])]
        marks.append((start, phrase, _union(named, parts)))
    return _described(where, record.get("file_name"), text, marks)


def refs(where: str, record: Any) -> Described | None:
    """A record of RefCOCOg's; None where its caption holds none of its sentences."""
    if not isinstance(record, dict) or len(record) != 1:
        raise BadRecord(f"{where} is {shortened(record)}, expected an object of one id")
    (inner,) = record.values()
    text = _caption(where, inner).lower()
    found = inner.get("refs")
    if not isinstance(found, list):
        raise BadRecord(f"{where}: refs is {shortened(found)}, expected a list")
    marks = []
    for i, one in enumerate(found):
        if not isinstance(one, dict) or not isinstance(one.get("sentence"), str):
            raise BadRecord(f"{where}, ref {i} is {shortened(one)}, expected an object with sentence and segmentation")
        phrase, polygons = one["sentence"].strip(), one.get("segmentation")
        if not isinstance(polygons, list) or not polygons:
            raise BadRecord(f"{where}, ref {i}: segmentation is {shortened(polygons)}, expected polygons")
        if phrase and (start := text.find(phrase.lower())) >= 0:
            marks.append((start, phrase, polygons))
    return _described(where, inner.get("img_file_name"), text, marks)


def flickr(where: str, image: Any) -> Described | None:
    """An image of Flickr30k's with its `annotations`; None where it is passed by."""
    text = _caption(where, image)
    if not is_id(image.get("id")):
        raise BadRecord(f"{where}: id is {shortened(image.get('id'))}, expected a text or a number")
    sides = image.get("height"), image.get("width")
    if not all(type(side) in (int, float) for side in sides):
        raise BadRecord(f"{where}: height and width are {shortened(sides)}, expected pixels")
    if len(text.split(" ")) < WORDS or min(sides) < SIDE:
        return None
    marks = []
    for one in image["annotations"]:
        named = f"{where}, annotation {shortened(one.get('id'))}"
        if one.get("ignore") or not _has_area(named, one.get("bbox"), one.get("area"), sides):
            continue
        spans = one.get("tokens_positive")
        start, end = _span(named, spans[0] if isinstance(spans, list) and spans else spans, text)
        marks.append((start, text[start:end], checked_rle(named, one.get("sam_mask"))))
    return _described(where, image.get("file_name"), text, marks)


def joined(images: list[Any], annotations: list[Any]) -> list[Any]:
    """The images of a COCO file, each with its annotations; those of no image belong nowhere."""
    of: dict[Any, list[Any]] = {}
    for one in annotations:
        if isinstance(one, dict) and is_id(one.get("image_id")):
            of.setdefault(one["image_id"], []).append(one)
    return [
        {**one, "annotations": of.get(one["id"], [])} if isinstance(one, dict) and is_id(one.get("id")) else one
        for one in images
    ]


def is_id(value: Any) -> bool:
    """Whether a value can name an image."""
    return type(value) in (str, int)


def _described(where: str, picture: Any, text: str, marks: list[Mark]) -> Described | None:
    if not marks:
        return None
    marks.sort(key=lambda mark: mark[0])
    phrases, masks = (tuple(mark[i] for mark in marks) for i in (1, 2))
    return Described(checked_picture_name(where, "its picture", picture), text, phrases, masks)


def _caption(where: str, record: Any) -> str:
    if not isinstance(record, dict):
        raise BadRecord(f"{where} is {shortened(record)}, expected an object")
    text = record.get("caption")
    if not isinstance(text, str) or not text.strip('"').strip():
        raise BadRecord(f"{where}: caption is {shortened(text)}, expected a text")
    return text.strip('"').strip()


def _span(where: str, span: Any, text: str) -> tuple[int, int]:
    """Where a phrase begins and ends in the caption."""
    numbers = isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)
    if not numbers or not 0 <= span[0] < span[1]:
        raise BadRecord(f"{where}: its place is {shortened(span)}, expected [start, end] in a caption of {len(text)}")
    return span[0], span[1]


def _has_area(where: str, box: Any, area: Any, sides: tuple[float, float]) -> bool:
    """Whether some of a box [x, y, width, height] lies in the picture."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in (*box, area)):
        raise BadRecord(f"{where}: bbox and area are {shortened((box, area))}, expected [x, y, width, height], pixels")
    x, y, width, height = box
    across = min(x + width, sides[1]) - max(x, 0)
    down = min(y + height, sides[0]) - max(y, 0)
    return across > 0 and down > 0 and area > 0 and width >= 1 and height >= 1


def _union(where: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    if len({tuple(part["size"]) for part in parts}) > 1:
        raise BadRecord(f"{where}: its masks are of several sizes")
    if len(parts) == 1:
        return parts[0]
    merged = coco.merge(parts)
    return {"size": parts[0]["size"], "counts": merged["counts"].decode("ascii")}
