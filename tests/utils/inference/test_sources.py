"""utils.inference.sources: what arguments name, and what they do not."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.processor import PixDLMProcessor
from tests.permissions import refused
from utils.inference.sources import Failure, Question, Source, askable, find_sources, pictures_in, read_questions
from utils.runtime.errors import UserError


def names(sources: list[Source], folder: Path) -> list[str]:
    return [str(one.path.relative_to(folder)) for one in sources]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, a video, a folder of more, and what is none."""
    for name in (
        "b.JPG",
        "a.png",
        "c.heic",
        "film.MP4",
        "notes.txt",
        ".hidden.jpg",
        "deep/er/d.tif",
        "deep/list.jsonl",
        "deep/plan.pdf",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "in"


def test_a_folder_gives_its_pictures_and_those_in_its_folders(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        sources, failures = find_sources([str(folder)], ["Which?", "Where?"])
    assert names(sources, folder) == ["a.png", "b.JPG", "c.heic", "deep/er/d.tif", "film.MP4"] and not failures
    assert all(one.questions == (Question("Which?"), Question("Where?")) for one in sources)
    assert [one.is_video for one in sources] == [False] * 4 + [True]
    assert "left out as no pictures by their names: list.jsonl, plan.pdf, notes.txt" in caplog.text


def test_results_in_a_folder_are_not_asked_about_again(folder: Path) -> None:
    (folder / "answers.jsonl").write_text('{"mask": "a.mask.png", "overlay": "a.overlay.jpg"}\n')
    (folder / "failed.jsonl").write_text("")
    for name in ("a.mask.png", "a.overlay.jpg", "mine.mask.png"):
        (folder / name).write_bytes(b"")
    assert [path.name for path in pictures_in(folder) if "mask" in path.name or "overlay" in path.name] == [
        "mine.mask.png"
    ]


def test_patterns_are_expanded_unless_a_file_has_that_name(folder: Path) -> None:
    sources, failures = find_sources([f"{folder}/**/*.tif", f"{folder}/[abc].*"], ["Which?"])
    assert names(sources, folder) == ["deep/er/d.tif", "a.png", "b.JPG", "c.heic"] and not failures
    (folder / "[abc].png").write_bytes(b"")
    assert names(find_sources([f"{folder}/[abc].png"], ["Which?"])[0], folder) == ["[abc].png"]


def test_what_names_nothing_is_a_failure_and_the_rest_goes_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("")
    given = [f"{tmp_path}/*.jpeg", tmp_path / "empty", tmp_path / "texts", tmp_path / "no.jsonl", folder / "a.png"]
    sources, failures = find_sources(list(map(str, given)), ["Which?"])
    assert names(sources, folder) == ["a.png"]
    assert [one.what for one in failures] == list(map(str, given[:4]))
    said = [one.error for one in failures]
    assert said[0] == "no file matches this pattern" and said[3] == "no such file"
    assert said[1].startswith("no pictures in this folder; ") and "(a.txt)" in said[2]


def test_pictures_without_a_question_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png: nothing is asked about it; give a question, e\.g\. --ask"):
        find_sources([str(folder / "a.png")], [])


def test_a_file_of_questions(folder: Path) -> None:
    lines = [
        {"image": "a.png", "question": "One?", "id": 7},
        {"image": "deep/er/d.tif", "question": "Two?"},
        {"image": "a.png", "question": "Three?", "id": "x"},
    ]
    file = folder / "list.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    sources, failures = find_sources([str(file)], [])
    assert names(sources, folder) == ["a.png", "deep/er/d.tif"] and not failures
    assert sources[0].questions == (Question("One?", 7), Question("Three?", "x"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png"', "not JSON"),
        ('["a.png", "Which?"]', 'expected {"image": "a.jpg", "question": "…"}'),
        ('{"image": "a.png"}', "expected"),
        ('{"image": 3, "question": "Which?"}', "expected"),
        ('{"image": "a.png", "question": " "}', "question"),
    ],
)
def test_a_line_that_asks_nothing_is_named_and_the_others_are_asked(folder: Path, line: str, message: str) -> None:
    file = folder / "list.jsonl"
    file.write_text(f'{line}\n{{"image": "a.png", "question": "Which?"}}\n')
    sources, (failure,) = read_questions(file)
    assert names(sources, folder) == ["a.png"]
    assert failure.what == f"{file}:1" and message in failure.error


def test_a_file_without_questions_is_told(folder: Path) -> None:
    (folder / "list.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no questions in it"):
        read_questions(folder / "list.jsonl")


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    os.symlink(folder, folder / "deep/round")
    assert len(pictures_in(folder)) == 5


def test_a_question_that_is_too_long_fails_alone_in_a_file_and_is_refused_for_all(
    tiny_config: PixDLMConfig, tokenizer: PixTokenizer
) -> None:
    processor = PixDLMProcessor(tiny_config, tokenizer)
    long = "car " * 3000
    sources = [Source(Path("a.png"), (Question("One?"), Question(long, 4))), Source(Path("b.png"), (Question(long),))]
    left, failures = askable(sources, [], processor)
    assert left == [Source(Path("a.png"), (Question("One?"),))]
    assert [(one.what, one.question) for one in failures] == [("a.png", Question(long, 4)), ("b.png", Question(long))]
    assert all(isinstance(one, Failure) and one.error.endswith("shorten the question") for one in failures)
    with pytest.raises(UserError, match="^--ask: .*shorten the question"):
        askable(sources, [long], processor)


def test_names_that_no_file_can_have_are_no_end() -> None:
    long = "a" * 300
    sources, failures = find_sources([long, f"{long}*"], ["Which?"])
    assert [str(one.path) for one in sources] == [long] and len(failures) == 1


def test_a_folder_that_may_not_be_looked_into_is_named_and_the_others_are_asked_about(folder: Path) -> None:
    with refused(folder / "deep"):
        assert [one.name for one in pictures_in(folder)] == ["a.png", "b.JPG", "c.heic", "deep", "film.MP4"]
