"""Frames of videos that are written here; the colour of a frame is its number."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.permissions import refused
from tests.training import CHECKOUT
from utils.inference.video import VIDEO_SUFFIXES, VideoFrame, frame_count, video_frames
from utils.runtime.errors import UserError

HEIGHT, WIDTH = 64, 96
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
STEP = 8  # of green from frame to frame


def write_video(path: Path, frames: int = 30, rate: float = 10.0) -> Path:
    """Blue, with the frame's number as green; a red square at the top left."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODECS[path.suffix]), rate, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(frames):
        pixels = np.full((HEIGHT, WIDTH, 3), (200, STEP * number, 0), np.uint8)
        pixels[:16, :16] = (0, 0, 255)
        writer.write(pixels)
    writer.release()
    return path


def number_in(frame: VideoFrame) -> int:
    """The number that a frame was written with."""
    return round(float(frame.pixels[32:, 32:, 1].mean()) / STEP)


def turned_by_a_quarter(data: bytes) -> bytes:
    """An MP4 whose header says that it is to be shown turned clockwise, as of a phone held upright."""
    place = data.index(b"tkhd") + 44
    unit = 1 << 16
    matrix = np.array([0, unit, 0, -unit, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    return data[:place] + matrix + data[place + len(matrix) :]


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (0, list(range(30))),
        (0.1, list(range(30))),
        (0.04, list(range(30))),  # more often than there are frames
        (0.5, [0, 5, 10, 15, 20, 25]),
        (1, [0, 10, 20]),
        (0.75, [0, 8, 15, 23]),  # 0.75 s and 2.25 s lie between two frames
        (1.0004, [0, 10, 20]),  # timestamps are right to a millisecond
        (99, [0]),
    ],
)
def test_frames_are_chosen_by_the_clock(tmp_path: Path, suffix: str, every: float, expected: list[int]) -> None:
    path = write_video(tmp_path / f"a{suffix}")
    found = list(video_frames(path, every))
    assert [frame.index for frame in found] == [number_in(frame) for frame in found] == expected
    assert [frame.seconds for frame in found] == pytest.approx([number / 10 for number in expected])
    assert frame_count(path, every) == len(expected)


def test_a_rate_that_is_no_whole_number(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", rate=30000 / 1001)
    found = list(video_frames(path, 1 / 3))
    assert [frame.index for frame in found] == [0, 10, 20]
    assert [frame.seconds for frame in found] == pytest.approx(
        [number * 1001 / 30000 for number in (0, 10, 20)], abs=1e-5
    )


def test_frames_are_rgb(tmp_path: Path) -> None:
    (frame,) = video_frames(write_video(tmp_path / "a.avi", frames=1), 1)
    assert frame.pixels.shape == (HEIGHT, WIDTH, 3) and frame.pixels.dtype == np.uint8
    assert frame.pixels[4, 4, 0] > 200 and frame.pixels[4, 4, 2] < 60  # red
    assert frame.pixels[40, 40, 2] > 150  # blue


def test_rotation_is_applied(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.mp4", frames=3)
    (tmp_path / "turned.mp4").write_bytes(turned_by_a_quarter(plain.read_bytes()))
    for straight, turned in zip(video_frames(plain, 0), video_frames(tmp_path / "turned.mp4", 0), strict=True):
        assert (turned.pixels == np.rot90(straight.pixels, -1)).all()


def test_frames_stay_as_they_were_given(tmp_path: Path) -> None:
    """OpenCV may decode into the same memory again."""
    assert [number_in(frame) for frame in list(video_frames(write_video(tmp_path / "a.avi", 5), 0))] == [0, 1, 2, 3, 4]


def test_a_broken_off_video_gives_what_it_has_and_tells(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    found = []
    with pytest.raises(UserError, match=r"cut.avi: breaks off after .* of 3.0 seconds"):
        for frame in video_frames(tmp_path / "cut.avi", 0):
            found.append(number_in(frame))
    assert found == list(range(len(found))) and 4 < len(found) < 20


def test_lost_frames_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last ones here, which are too few to say that it breaks off."""
    data = write_video(tmp_path / "a.avi").read_bytes()
    (tmp_path / "short.avi").write_bytes(data[: int(len(data) * 0.85)])
    with caplog.at_level(logging.WARNING):
        count = len(list(video_frames(tmp_path / "short.avi", 0)))
    assert f"only {count} of about 30 frames" in caplog.text


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    cases = {
        "empty.mp4": (b"", "empty"),
        "junk.mp4": (b"junk" * 1000, "no video"),
        "text.avi": (b"RIFF", "no video"),
        "cut1.mp4": (whole[: len(whole) // 2], "interrupted"),  # and a digit, which is no row of images
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        for read in (lambda path: next(video_frames(path, 1)), lambda path: frame_count(path, 1)):
            with pytest.raises(UserError, match=message) as caught:
                read(tmp_path / name)
            assert name in str(caught.value)
    (tmp_path / "folder.mp4").mkdir()
    for name, message in (("none.mp4", "no such video"), ("folder.mp4", "a folder"), ("a\udcff.mp4", "rename")):
        with pytest.raises(UserError, match=message):
            next(video_frames(tmp_path / name, 1))


def test_a_video_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 2)
    with refused(path), pytest.raises(UserError, match="permission denied"):
        next(video_frames(path, 1))


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.avi", 2).rename(tmp_path / "12:30 %02d.avi")
    monkeypatch.chdir(tmp_path)
    assert len(list(video_frames(Path("12:30 %02d.avi"), 0))) == 2


@pytest.mark.parametrize("every", [-1, float("nan"), float("inf")])
def test_wrong_seconds_are_refused_at_once(tmp_path: Path, every: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        video_frames(tmp_path / "a.avi", every)


def test_opencv_and_ffmpeg_are_silent(tmp_path: Path) -> None:
    """In a process of its own, since FFmpeg asks once how much it may say."""
    data = bytearray(write_video(tmp_path / "a.mp4").read_bytes())
    start, end = data.index(b"mdat") + 600, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    (tmp_path / "damaged.mp4").write_bytes(data)
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 1000)
    program = """
import sys
from pathlib import Path
from utils.inference.video import video_frames
from utils.runtime.errors import UserError
for name in sys.argv[1:]:
    try:
        list(video_frames(Path(name), 0))
    except UserError as error:
        print(error)
"""
    names = [tmp_path / "junk.mp4", tmp_path / "damaged.mp4"]
    ran = subprocess.run([sys.executable, "-c", program, *names], cwd=CHECKOUT, capture_output=True, text=True)
    assert ran.stderr == "" and "no video" in ran.stdout and "breaks off" in ran.stdout


def test_suffixes_are_endings_in_lower_case() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in VIDEO_SUFFIXES)
