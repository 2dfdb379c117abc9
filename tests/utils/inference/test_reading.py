"""utils.inference.reading: pictures in their order, decoded ahead, and what cannot be decoded."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import PixDLMConfig
from model.inputs.images import frame_of
from model.language.tokens import PixTokenizer
from model.processor import PixDLMProcessor
from utils.inference import reading
from utils.inference.reading import Loaded, ReadAhead
from utils.inference.sources import Failure, Question, Source
from utils.inference.video import VideoFrame
from utils.runtime.errors import UserError

ASKED = (Question("Which?"),)


@pytest.fixture
def processor(tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> PixDLMProcessor:
    return PixDLMProcessor(tiny_config, tokenizer)


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Six pictures, of which the third is none."""
    for number in range(6):
        path = tmp_path / f"{number}.png"
        if number == 2:
            path.write_bytes(b"none")
        else:
            Image.new("RGB", (30 + number, 20), (number, 0, 0)).save(path)
    return [Source(tmp_path / f"{number}.png", ASKED) for number in range(6)]


def test_pictures_come_in_their_order_as_the_networks_read_them(
    sources: list[Source], processor: PixDLMProcessor
) -> None:
    with ReadAhead(sources, processor, threads=3, ahead=2) as pictures:
        found = list(pictures)
    assert [one.name if isinstance(one, Loaded) else one.what for one in found] == [str(one.path) for one in sources]
    (failure,) = (one for one in found if isinstance(one, Failure))
    assert failure.what.endswith("2.png") and failure.error.startswith("damaged or no picture")
    expected = processor.images([frame_of(sources[4].path, processor.config)])
    assert torch.equal(found[4].pixels.clip, expected.clip_pixels[0])
    assert torch.equal(found[4].pixels.sam, expected.sam_pixels[0])
    assert found[4].geometry == expected.geometries[0] and np.array_equal(found[4].picture[0, 0], [4, 0, 0])


def test_no_more_than_so_many_wait(
    sources: list[Source], processor: PixDLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    load = reading.load
    monkeypatch.setattr(reading, "load", lambda source, processor: begun.append(1) or load(source, processor))
    with ReadAhead(sources, processor, threads=4, ahead=2) as pictures:
        time.sleep(0.3)
        assert len(begun) == 3  # two that wait, and one that waits for room
        next(iter(pictures))
    assert not [one for one in threading.enumerate() if one is pictures.thread]


def test_a_large_picture_is_handed_on_as_its_file(
    tmp_path: Path, processor: PixDLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "DRAFT_PIXELS", 100)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert reading.load(Source(tmp_path / "a.png", ASKED), processor).picture == tmp_path / "a.png"


def frames(count: int, ends: bool = True):
    for number in range(count):
        yield VideoFrame(25 * number, 1.0 * number, np.full((20, 30, 3), number, np.uint8))
    if not ends:
        raise UserError("film.mp4: breaks off")


def test_the_frames_of_a_video_are_pictures(
    sources: list[Source], processor: PixDLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "video_frames", lambda path, every: frames(3, ends=False))
    film = Source(Path("film.mp4"), (*ASKED, Question("Where?")))
    done = {("film.mp4", 0, "Which?"), ("film.mp4", 0, "Where?"), ("film.mp4", 25, "Where?")}
    with ReadAhead([film, sources[0]], processor, 2, 2, done=done) as pictures:
        first, second, failure, after = pictures
    assert [one.stem for one in (first, second, after)] == ["film-000025", "film-000050", "0"]
    assert first.place == {"frame": 25, "frame_seconds": 1.0} and first.name == "film.mp4"
    assert first.questions == ASKED and len(second.questions) == 2
    assert (failure.what, failure.error) == ("film.mp4", "breaks off")


def test_an_error_of_ours_is_raised_where_pictures_are_awaited(
    processor: PixDLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, every: float):
        raise ZeroDivisionError

    monkeypatch.setattr(reading, "video_frames", broken)
    with pytest.raises(ZeroDivisionError), ReadAhead([Source(Path("a.mp4"), ASKED)], processor, 1, 1) as pictures:
        list(pictures)
