"""utils.inference.output: files, lines, words, what failed, and what is done already."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from model.inputs.images import Geometry
from model.processor import PicturePixels
from utils.inference.engine import Answered
from utils.inference.finish import Finished
from utils.inference.output import Output, in_words, progress, without_done
from utils.inference.reading import Loaded
from utils.inference.sources import Failure, Question, Source
from utils.runtime.errors import UserError

ENTRY = {"status": "ok", "text": "[SEG0]", "area": 5, "area_fraction": 0.0125, "confidence": 0.75, "masks": [{}]}


def answered(name: str, question: Question, **place: object) -> Answered:
    """An answer of one byte in a mask file."""
    geometry = Geometry("letterbox", 20, 30)
    pixels = PicturePixels(None, None, geometry)
    loaded = Loaded(name, Path(name).stem, np.zeros(0), pixels, geometry, (question,), place)
    return Answered(loaded, question, Finished({**ENTRY, "question": question.text}, {"mask": b"1"}), 0.25)


def test_a_line_says_all_that_is_known(tmp_path: Path) -> None:
    output = Output(tmp_path, None, "m", {"neutral_fusion": True})
    output.add(answered("a/film.mp4", Question("Which?", [1]), frame=25, frame_seconds=1.0))
    assert output.close() == 0
    (line,) = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    named = {"picture": "a/film.mp4", "frame": 25, "frame_seconds": 1.0, "id": [1], "width": 30, "height": 20}
    assert line == {**named, **ENTRY, "question": "Which?", "seconds": 0.25, "model": "m", "neutral_fusion": True,
                    "mask": "film.mask.png"}  # fmt: skip


def test_what_failed_is_listed_and_decides_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(tmp_path, "-", "m")
    output.add(Failure("b.png", "damaged"))
    output.add(Failure("c.png", "too long", Question("Why?", 3)))
    assert output.close() == 2
    output.add(answered("a.png", Question("Which?")))
    assert output.close() == 1
    printed = list(map(json.loads, capsys.readouterr().out.splitlines()))
    failed = [
        {"picture": "b.png", "status": "failed", "error": "damaged"},
        {"picture": "c.png", "status": "failed", "error": "too long", "question": "Why?", "id": 3},
    ]
    assert printed[:2] == failed and printed[2]["picture"] == "a.png"
    assert list(map(json.loads, (tmp_path / "failed.jsonl").read_text().splitlines())) == failed


def test_what_is_done_has_the_model_and_all_its_files(tmp_path: Path) -> None:
    output = Output(tmp_path, None, "m")
    for name in ("a.png", "b.png"):
        output.add(answered(name, Question("Which?")))
    (tmp_path / "b.mask.png").unlink()
    again = Output(tmp_path, None, "m")
    assert again.done({"mask"}) == {("a.png", None, "Which?")}
    assert len(again.done(())) == 2 and Output(tmp_path, None, "other").done(()) == set()
    assert Output(tmp_path, None, "m", {"load_in": "4bit"}).done(()) == set()
    assert len(Output(tmp_path, None, "m", {"load_in": None, "neutral_fusion": False}).done(())) == 2
    sources = [Source(Path(name), (Question("Which?"), Question("Where?"))) for name in ("a.png", "c.png", "d.mp4")]
    left = without_done([*sources, Source(Path("a.png"), (Question("Which?"),))], again.done({"mask"}))
    assert [(one.path.name, len(one.questions)) for one in left] == [("a.png", 1), ("c.png", 2), ("d.mp4", 2)]
    assert left[0].questions == (Question("Where?"),)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "a.png: 1 mask, 1.25 % of it, confidence 0.75  ->  a.mask.png"),
        ({"masks": [{}, {}]}, "a.png: 2 masks, 1.25 % of it"),
        ({"frame": 25, "frame_seconds": 1.5}, "a.png at 1.5 s: 1 mask"),
        ({"area": 0}, "a.png: an empty mask"),
        ({"status": "no_seg", "masks": [], "text": "No."}, "a.png: nothing in it answers the question, says the model"),
        ({"status": "broken", "masks": []}, "a.png: no whole [SEG] group"),
    ],
)
def test_words_for_a_person(changed: dict, said: str) -> None:
    assert in_words({"picture": "a.png", "mask": "a.mask.png", **ENTRY, **changed}).startswith(said)


def test_a_video_that_cannot_be_opened_does_not_end_the_bar(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"none")
    names = ("a.mp4", "a\0.mp4", "b.png")
    sources = [Source(tmp_path / name, (Question("Which?"), Question("Where?"))) for name in names]
    with progress(sources, 1.0) as bar:
        assert bar.total == 2


def test_what_was_answered_is_told_before_a_coco_file_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = Output(tmp_path, None, "m")
    output.add(answered("a.png", Question("Which?")))  # whose line holds no masks
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="no line of infer.py"):
        output.close(str(tmp_path / "coco.json"))
    assert "1 answered, 0 failed" in caplog.text


def test_lines_of_somebody_else_answer_nothing(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"model": "m", "picture": ["a"], "question": {}}\n[]\n')
    assert Output(tmp_path, None, "m").done(()) == set()


def test_answers_stay_in_memory_only_for_a_coco_file_without_a_folder(tmp_path: Path) -> None:
    kept = []
    for output in (Output(tmp_path, None, "m", keeps=True), Output(None, "-", "m"), Output(None, "-", "m", keeps=True)):
        output.add(answered("a.png", Question("Which?")))
        kept.append(len(output.kept))
    assert kept == [0, 0, 1]


def test_a_full_disk_behind_stdout_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        output = Output(tmp_path, "-", "m")
        output.add(answered("a.png", Question("Which?")))
        assert output.close() == 2 and (tmp_path / "answers.jsonl").exists()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(UserError, match="stdout cannot be written .No space left on device."):
            Output(None, "-", "m").add(answered("a.png", Question("Which?")))
