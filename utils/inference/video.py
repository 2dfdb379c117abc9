"""Frames of a video, by the clock: one every so many seconds, turned upright, two at a time in memory."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.runtime.errors import UserError, read_errors_as_user_error
from utils.runtime.text import lone_surrogate, shown_name

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv",
)  # fmt: skip
ROUNDING = 1e-3  # seconds: containers round timestamps to milliseconds
CUT_SHORT = 1.0  # seconds before its end at which a video counts as broken off; sound may end later than pictures
LOST = 0.01  # of the frames, about which one is warned
USUAL_RATE = 25.0  # frames a second, of streams that tell no rate, as FFmpeg takes it
FFMPEG_LOG, SILENT = "OPENCV_FFMPEG_LOGLEVEL", "-8"  # FFmpeg's AV_LOG_QUIET


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Args:
        index: its number among all frames, from 0; where some cannot be decoded, among those that can.
        seconds: its timestamp, from the start.
        pixels: uint8[H, W, 3], RGB, turned as the video's rotation says.
    """

    index: int
    seconds: float
    pixels: np.ndarray


@dataclass(frozen=True)
class _Length:
    """What a video's header says: frames a second, and how many; 0 where it does not."""

    rate: float
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate if self.rate else 0.0


def video_frames(path: Path, every: float) -> Iterator[VideoFrame]:
    """The first frame, and then the first at or after each multiple of `every` seconds.

    Every frame is decoded, since seeking lands on key frames, but only those that are given are converted.

    Args:
        path: of the video.
        every: seconds; 0 gives every frame.

    Raises:
        ValueError: `every` is negative or no number.
        UserError: it cannot be read, has no frame, or breaks off; then its whole frames so far have been given.
    """
    if not (math.isfinite(every) and every >= 0):
        raise ValueError(f"every is {every}; expected seconds, 0 for every frame")
    return _chosen_frames(path, every)  # so that a wrong `every` is told now, not with the first frame


def frame_count(path: Path, every: float) -> int | None:
    """How many frames `video_frames` will give, by what the header says; None where it does not.

    Raises:
        UserError: the video cannot be opened.
    """
    with _opened(path) as capture:
        length = _length(capture)
    if not length.seconds:
        return None
    last = (length.frames - 1) / length.rate
    return min(length.frames, math.floor((last + ROUNDING) / every) + 1) if every else length.frames


def _chosen_frames(path: Path, every: float) -> Iterator[VideoFrame]:
    with _opened(path) as capture:
        length = _length(capture)
        index, seconds, due = -1, 0.0, 0.0
        chosen: VideoFrame | None = None  # given when another follows: the last one before a break may be half a frame
        while capture.grab():
            if chosen is not None:
                yield chosen
                chosen = None
            index += 1
            seconds = _timestamp(capture, index, seconds, length.rate or USUAL_RATE)
            if seconds + ROUNDING < due:
                continue
            there, pixels = capture.retrieve()
            if not there:
                raise UserError(f"{path}: frame {index} ({seconds:.1f} s) cannot be decoded; {_CURE}")
            chosen = VideoFrame(index, seconds, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            if every:
                due = every * (math.floor((seconds + ROUNDING) / every) + 1)
    _check_whole(path, length, index + 1, seconds)
    if chosen is not None:
        yield chosen


def _check_whole(path: Path, length: _Length, decoded: int, seconds: float) -> None:
    """Warns of lost frames.

    Raises:
        UserError: there is no frame, or the last one comes long before the end.
    """
    if not decoded:
        raise UserError(f"{path}: a video without a frame that can be decoded; {_CURE}")
    if seconds + 1 / (length.rate or USUAL_RATE) < length.seconds - CUT_SHORT:
        raise UserError(
            f"{path}: breaks off after {seconds:.1f} of {length.seconds:.1f} seconds (frame {decoded} of "
            f"{length.frames}); {_CURE}"
        )
    if decoded < length.frames * (1 - LOST) - 1:
        log.warning("%s: only %d of about %d frames could be decoded", path, decoded, length.frames)


_CURE = "copy it again from where it was taken, or mend it (ffmpeg -err_detect ignore_err -i … -c copy …)"


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """A video that OpenCV reads through FFmpeg, which turns frames by the video's rotation.

    Raises:
        UserError: it is missing, may not be read, is empty or no video.
    """
    _check_readable(path)
    os.environ.setdefault(FFMPEG_LOG, SILENT)  # read when the first video is opened; what matters is told here
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # An absolute path is no protocol ("12:30.mp4"); only FFmpeg, or names with digits are read as rows of images.
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        if not capture.isOpened():
            raise UserError(
                f"{path}: damaged or no video (a recording that was interrupted has no index at its end); copy it "
                "again, or convert it: ffmpeg -i … out.mp4"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def _check_readable(path: Path) -> None:
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder; name the videos in it")
    if broken := lone_surrogate(str(path)):
        raise UserError(f"{shown_name(path)}: its path holds {broken}, which OpenCV does not take; rename it")
    try:
        with read_errors_as_user_error(path, "video"), open(path, "rb") as file:
            if not file.read(1):
                raise UserError(f"{path}: damaged or no video (the file is empty); copy it again")
    except ValueError as error:  # a null character, from a file of questions
        raise UserError(f"{shown_name(path)!r}: no such video ({error})") from error


def _length(capture: cv2.VideoCapture) -> _Length:
    rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return _Length(rate if 0 < rate < math.inf else 0.0, int(frames) if 0 < frames < 1e12 else 0)


def _timestamp(capture: cv2.VideoCapture, index: int, before: float, rate: float) -> float:
    """Seconds of the frame that was grabbed; by the rate where the stream has no timestamps, or they do not grow."""
    seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if index == 0:
        return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
    return seconds if math.isfinite(seconds) and seconds > before else before + 1 / rate
