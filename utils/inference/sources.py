"""What infer.py is asked about: pictures, folders of them, patterns, videos, and files of questions."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from model.language.tokens import checked_question
from model.processor import PixDLMProcessor
from utils.inference.results import ANSWERS, FAILED, FILES, read_answers, result_names
from utils.inference.video import VIDEO_SUFFIXES
from utils.runtime.errors import UserError, read_errors_as_user_error
from utils.runtime.json_files import parse_json
from utils.runtime.text import shown_name

log = logging.getLogger(__name__)

QUESTION_SUFFIXES = (".jsonl", ".ndjson")
# Kinds that Pillow does not name; in a folder they are tried, so that one which cannot be read is told.
OTHER_PICTURES = (".heic", ".heif", ".avif", ".dng", ".jxl")
NAMED = 5  # files that a message names


@dataclass(frozen=True)
class Question:
    """A question, and the id that a file of questions gave it."""

    text: str
    id: Any = None


@dataclass(frozen=True)
class Source:
    """A picture, or a video, and what is asked about it.

    Args:
        path: of the file.
        questions: in their order.
    """

    path: Path
    questions: tuple[Question, ...]

    @property
    def is_video(self) -> bool:
        """Whether each of its frames is a picture."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Failure:
    """Something that could not be answered.

    Args:
        what: the picture, argument or line of a file.
        error: why, and what to do.
        question: where it was one question alone.
    """

    what: str
    error: str
    question: Question | None = None

    @classmethod
    def of(cls, what: str, error: UserError, question: Question | None = None, named: object = None) -> Failure:
        """The failure that an error is, without the name that its message begins with: `named`, or else `what`."""
        return cls(what, str(error).removeprefix(f"{what if named is None else named}: "), question)


def find_sources(arguments: Sequence[str], questions: Sequence[str]) -> tuple[list[Source], list[Failure]]:
    """The pictures that arguments name, in their order, and the arguments and lines that name none.

    Args:
        arguments: pictures, videos, folders (with the folders in them), patterns, and files of questions.
        questions: about every picture; files of questions bring their own.

    Raises:
        UserError: pictures are named, but nothing is asked about them.
    """
    asked = tuple(map(Question, questions))
    sources: list[Source] = []
    failures: list[Failure] = []
    for argument in arguments:
        paths = _matching(argument)
        if not paths:
            failures.append(Failure(shown_name(argument), "no file matches this pattern"))
        for path in paths:
            is_list = path.suffix.lower() in QUESTION_SUFFIXES
            if not asked and not is_list:
                raise UserError(
                    f"{shown_name(path)}: nothing is asked about it; give a question, e.g. "
                    '--ask "Which vehicle blocks the crossing?"'
                )
            try:
                if is_list:
                    found, bad = read_questions(path)
                    failures += bad
                else:
                    found = [Source(one, asked) for one in (pictures_in(path) if os.path.isdir(path) else [path])]
                sources += found
            except UserError as error:
                failures.append(Failure.of(shown_name(path), error))
    return sources, failures


def _matching(argument: str) -> list[Path]:
    """What an argument names: itself, or where there is no such file and it is a pattern, what that matches."""
    path = Path(argument)
    if os.path.lexists(path) or not glob.has_magic(argument):
        return [path]
    return [Path(one) for one in sorted(glob.glob(argument, recursive=True))]


def pictures_in(folder: Path) -> list[Path]:
    """Pictures and videos of a folder and of the folders in it, by name; results of earlier calls are left out.

    Raises:
        UserError: it holds none.
    """
    written_alone = {ending for ending, kind in Image.registered_extensions().items() if kind in ("PDF", "PALM")}
    known = {*Image.registered_extensions(), *OTHER_PICTURES, *VIDEO_SUFFIXES} - written_alone
    found: list[Path] = []
    others: list[Path] = []
    for path in _walk(folder):
        (found if path.suffix.lower() in known or os.path.isdir(path) else others).append(path)
    if not found:
        held = f" ({_named(others)})" if others else ""
        raise UserError(f"{shown_name(folder)}: no pictures in this folder{held}; name files, or another folder")
    if others:
        log.info("%s: left out as no pictures by their names: %s", folder, _named(others))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, without hidden ones and results; links to folders are not followed.

    A folder that may not be looked into stands for what is in it.
    """
    try:
        here = sorted(folder.iterdir())
        names = result_names(read_answers(folder))
    except PermissionError:  # told as a picture that may not be read is; the others are asked about
        yield folder
        return
    written = {ANSWERS, FAILED, *(name + ending for name in names for ending in FILES.values())}
    for path in here:
        if path.name.startswith(".") or path.name in written:
            continue
        if os.path.isdir(path):
            if not path.is_symlink():
                yield from _walk(path)
        else:
            yield path


def _named(paths: list[Path]) -> str:
    names = ", ".join(shown_name(path.name) for path in paths[:NAMED])
    return names + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")


def read_questions(file: Path) -> tuple[list[Source], list[Failure]]:
    """The sources of a file of questions, `{"image": …, "question": …}` a line, and the lines that are none.

    Paths are taken from the file's own folder; a line may have an "id", which its answer has too. What is asked about
    one picture stands together, so that it is encoded once.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    with read_errors_as_user_error(shown_name(file)):
        lines = file.read_bytes().splitlines()
    asked: dict[Path, list[Question]] = {}
    failures = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{shown_name(file)}:{number}"
        try:
            image, question = _line(line, where)
            asked.setdefault(file.parent / image, []).append(question)
        except UserError as error:
            failures.append(Failure.of(where, error))
    if not asked and not failures:
        raise UserError(f'{shown_name(file)}: no questions in it; a line is {{"image": "a.jpg", "question": "…"}}')
    return [Source(path, tuple(questions)) for path, questions in asked.items()], failures


def _line(line: bytes, where: str) -> tuple[str, Question]:
    """Picture and question of a line.

    Raises:
        UserError: it has none; `where` is in it.
    """
    entry = parse_json(line, where)
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "question")):
        raise UserError(f'{where}: expected {{"image": "a.jpg", "question": "…"}}')
    try:
        checked_question(entry["question"])
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return entry["image"], Question(entry["question"], entry.get("id"))


def askable(
    sources: Sequence[Source], questions: Sequence[str], processor: PixDLMProcessor
) -> tuple[list[Source], list[Failure]]:
    """Sources with the questions that fit into a model's context, and the questions of files that do not.

    Raises:
        UserError: one of `questions`, which are asked about every picture, does not.
    """
    refused: dict[str, UserError] = {}
    for text in dict.fromkeys(question.text for source in sources for question in source.questions):
        try:
            processor.check_question(text, "--ask")
        except UserError as error:
            if text in questions:
                raise
            refused[text] = error
    left = []
    failures = []
    for source in sources:
        kept = tuple(one for one in source.questions if one.text not in refused)
        lost = (one for one in source.questions if one.text in refused)
        name = shown_name(source.path)
        failures += [Failure.of(name, refused[one.text], one, named="--ask") for one in lost]
        if kept:
            left.append(Source(source.path, kept))
    return left, failures
