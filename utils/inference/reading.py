"""Pictures decoded ahead of the model, in threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.inputs.images import DRAFT_PIXELS, Frame, Geometry, Picture
from model.processor import PicturePixels, PixDLMProcessor
from utils.inference.geotiff import Georeference, is_georeferenced, read_georeference
from utils.inference.sources import Failure, Question, Source
from utils.inference.video import VideoFrame, video_frames
from utils.runtime.errors import UserError
from utils.runtime.text import shown_name

log = logging.getLogger(__name__)
TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Loaded:
    """A picture as the networks read it, and what is asked about it.

    Args:
        name: what lines call it.
        stem: of the names of its files.
        picture: its file, or its pixels where they are at hand and small enough to hand on.
        pixels: preprocessed; None once the picture is encoded.
        geometry: of the picture.
        questions: about it.
        place: in its video, for its line.
        georeference: where a GeoTIFF lies.
    """

    name: str
    stem: str
    picture: Path | np.ndarray
    pixels: PicturePixels | None
    geometry: Geometry
    questions: tuple[Question, ...]
    place: dict[str, Any]
    georeference: Georeference | None = None


def load(source: Source, processor: PixDLMProcessor) -> Loaded | Failure:
    """A picture, decoded and preprocessed, or why it cannot be."""
    name = shown_name(source.path)
    try:
        frame = Picture(source.path).frame(processor.config)
        loaded = _loaded(name, source.path.stem, source.path, frame, source.questions, {}, processor)
        return replace(loaded, georeference=_georeference(source.path))
    except UserError as error:
        return Failure.of(name, error, named=source.path)


def _georeference(path: Path) -> Georeference | None:
    """Where a GeoTIFF lies; None where it does not say so, which is told, as its masks are answers all the same."""
    if path.suffix.lower() not in TIFF_SUFFIXES or not is_georeferenced(path):
        return None
    try:
        return read_georeference(path)
    except UserError as error:
        log.warning("%s; there is no GeoJSON of it", error)
        return None


def load_frame(source: Source, frame: VideoFrame, processor: PixDLMProcessor) -> Loaded:
    """A frame of a video, preprocessed."""
    geometry = Geometry(processor.config.geometry, *frame.pixels.shape[:2])
    place = {"frame": frame.index, "frame_seconds": round(frame.seconds, 3)}
    stem = f"{source.path.stem}-{frame.index:06d}"
    whole = Frame(frame.pixels, geometry)
    return _loaded(shown_name(source.path), stem, frame.pixels, whole, source.questions, place, processor)


def _loaded(
    name: str,
    stem: str,
    picture: Path | np.ndarray,
    frame: Frame,
    questions: tuple[Question, ...],
    place: dict[str, Any],
    processor: PixDLMProcessor,
) -> Loaded:
    height, width = frame.pixels.shape[:2]
    geometry = frame.geometry
    if (height, width) == (geometry.height, geometry.width) and height * width <= DRAFT_PIXELS:
        picture = frame.pixels
    return Loaded(name, stem, picture, processor.preprocess(frame), geometry, questions, place)


class ReadAhead:
    """Iterates over pictures in their order, some of them decoded ahead.

    Args:
        sources: pictures and videos.
        processor: of the model.
        threads: that decode.
        ahead: pictures that wait at most.
        every: seconds between the frames of a video; 0 for each frame.
        done: picture, frame and question of what is answered already.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: PixDLMProcessor,
        threads: int,
        ahead: int,
        every: float = 1.0,
        done: Collection[tuple[str, int | None, str]] = (),
    ) -> None:
        self.sources, self.processor, self.every, self.done = sources, processor, every, done
        self.waiting: queue.Queue[Future[Loaded | Failure] | BaseException | None] = queue.Queue(max(ahead, 1))
        self.closed = threading.Event()
        self.pool = ThreadPoolExecutor(threads)
        self.thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> ReadAhead:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        while self.thread.is_alive():  # it may wait for room
            try:
                self.waiting.get(timeout=0.05)
            except queue.Empty:
                continue
        self.pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Loaded | Failure]:
        while (waiting := self.waiting.get()) is not None:
            if isinstance(waiting, BaseException):
                raise waiting
            yield waiting.result()

    def _read(self) -> None:
        """Submit all sources, in a thread of its own."""
        try:
            for source in self.sources:
                for future in self._frames(source) if source.is_video else (self._submit(load, source),):
                    self.waiting.put(future)
                    if self.closed.is_set():
                        return
            self.waiting.put(None)
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            self.waiting.put(error)

    def _submit(self, function: Any, *given: Any) -> Future[Loaded | Failure]:
        return self.pool.submit(function, *given, self.processor)

    def _frames(self, source: Source) -> Iterator[Future[Loaded | Failure]]:
        """The frames of a video, and what is wrong with it where it breaks off."""
        name = shown_name(source.path)
        try:
            for frame in video_frames(source.path, self.every):
                left = tuple(one for one in source.questions if (name, frame.index, one.text) not in self.done)
                if left:
                    yield self._submit(load_frame, replace(source, questions=left), frame)
        except UserError as error:
            broken: Future[Loaded | Failure] = Future()
            broken.set_result(Failure.of(name, error, named=source.path))
            yield broken
