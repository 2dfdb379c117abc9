"""From an answer's logits to its line and files, in processes of their own, so that the model does not wait for it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from model.answering import Answer
from model.config import PixDLMConfig
from model.inputs.images import Geometry, encoded_image, read_image
from model.segmentation import Segmentation, segmentation
from utils.inference.geotiff import Georeference, geojson_bytes, geojson_features
from utils.inference.results import FILES, answer_record
from utils.runtime.errors import UserError
from utils.runtime.helpers import dead_helper_as_user_error, helper_pool

_config: PixDLMConfig | None = None  # of a process of the pool


@dataclass(frozen=True)
class Wanted:
    """What is made of an answer beside its line.

    Args:
        files: keys of FILES.
        tolerance: pixels by which polygons may leave masks, see `Segmentation.polygons`.
    """

    files: frozenset[str] = frozenset()
    tolerance: float = 0.0


@dataclass(frozen=True)
class Task:
    """An answer to finish.

    Args:
        picture: its file, or uint8[H, W, 3] where that is at hand and small; for the overlay.
        question: that was asked.
        logits: float32[K, m, m], in the network's geometry.
        text, status: of the answer.
        geometry: of the picture.
        wanted: what to make.
        georeference: where the picture lies, for GeoJSON.
    """

    picture: Path | np.ndarray
    question: str
    logits: np.ndarray
    text: str
    status: str
    geometry: Geometry
    wanted: Wanted = field(default_factory=Wanted)
    georeference: Georeference | None = None


@dataclass(frozen=True)
class Finished:
    """An answer's line, and the contents of its files by keys of FILES."""

    entry: dict[str, Any]
    files: dict[str, bytes]


def finish(task: Task, config: PixDLMConfig) -> Finished:
    """Finish an answer.

    Raises:
        UserError: the whole picture, which an overlay needs, cannot be decoded, or it lies nowhere on the globe.
    """
    answer = Answer(torch.from_numpy(task.logits), task.text, task.status)
    found = segmentation(answer, task.geometry, config, task.question)
    files = {}
    if "mask" in task.wanted.files:
        files["mask"] = encoded_image(FILES["mask"], np.uint8(255) * found.union)
    if "overlay" in task.wanted.files:
        files["overlay"] = _overlay(found, task)
    if "geojson" in task.wanted.files and task.georeference is not None:
        files["geojson"] = _geojson(found, task.georeference)
    return Finished(answer_record(found, task.wanted.tolerance), files)


def _overlay(found: Segmentation, task: Task) -> bytes:
    """The picture with its masks.

    Raises:
        UserError: the picture cannot be decoded, or is longer than a JPEG can be (65,500 pixels).
    """
    pixels = task.picture if isinstance(task.picture, np.ndarray) else _pixels(task.picture)
    try:
        return encoded_image(FILES["overlay"], replace(found, image=pixels).overlay())
    except ValueError as error:
        height, width = pixels.shape[:2]
        raise UserError(
            f"its overlay of {width} x {height} pixels cannot be written as JPEG; cut the picture into tiles, or leave "
            "overlays out (--write mask,geojson)"
        ) from error


def _geojson(found: Segmentation, georeference: Georeference) -> bytes:
    """The masks where they lie, each with what is known of it."""
    answer = {"question": found.question, "text": found.text, "status": found.status}
    properties = [{**answer, "mask": number, "confidence": float(one)} for number, one in enumerate(found.scores)]
    return geojson_bytes(geojson_features(georeference, found.masks, properties))


@lru_cache(maxsize=1)  # several questions about a picture come one after the other
def _pixels(path: Path) -> np.ndarray:
    return read_image(path)


def _start(config: PixDLMConfig) -> None:
    """Begin a process of the pool."""
    global _config  # noqa: PLW0603
    _config = config
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _finish(task: Task) -> Finished:
    """`finish` in a process of the pool."""
    return finish(task, _config)


class Finisher:
    """Finishes answers, in processes or, without any, at once.

    Args:
        config: of the model.
        workers: processes.
    """

    def __init__(self, config: PixDLMConfig, workers: int) -> None:
        self.config = config
        self.pool = helper_pool(workers, _start, config) if workers else None

    def submit(self, task: Task) -> Future[Finished]:
        """The answer to be finished."""
        if self.pool is not None:
            with dead_helper_as_user_error():
                return self.pool.submit(_finish, task)
        future: Future[Finished] = Future()
        try:
            future.set_result(finish(task, self.config))
        except Exception as error:  # noqa: BLE001 (raised by its result)
            future.set_exception(error)
        return future

    def __enter__(self) -> Finisher:
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
