"""Where the outcomes of infer.py go: files in a folder, lines, and what a person reads."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.inference.coco_export import write_coco
from utils.inference.engine import Answered
from utils.inference.results import ANSWERS, FAILED, FILES, json_line, read_answers, result_names, write_answer
from utils.inference.sources import Failure, Question, Source
from utils.inference.video import frame_count
from utils.runtime.errors import UserError, to_nowhere
from utils.runtime.files import atomic_write, write_errors_as_user_error
from utils.runtime.text import shown_name

log = logging.getLogger(__name__)

Key = tuple[str, int | None, str]  # picture, frame of a video, question
STDOUT = "-"


class Output:
    """Writes outcomes as they come.

    Args:
        out: the folder of files and lines; None for none.
        json_to: STDOUT for lines there, in place of words; None for words.
        model: what lines call the model.
        facts: what sets the model apart from the published one, such as that its fusion is neutral; lines have those
            that are true.
        keeps: answers in memory for a COCO file, where there is no folder to read them from again.
    """

    def __init__(
        self,
        out: Path | None,
        json_to: str | None,
        model: str,
        facts: dict[str, Any] | None = None,
        keeps: bool = False,
    ) -> None:
        self.out, self.json_to, self.facts, self.keeps = out, json_to, {"model": model, **(facts or {})}, keeps
        self.taken = set() if out is None else result_names(read_answers(out))
        self.kept: list[dict[str, Any]] = []
        self.failures: list[Failure] = []
        self.answered = self.before = 0  # in this call, and of what it asks in earlier ones
        self.reader_left = False

    def done(self, files: Iterable[str]) -> set[Key]:
        """What lines of this model answer, whose files are all there."""
        return {
            (entry.get("picture"), entry.get("frame"), entry.get("question"))
            for entry in (() if self.out is None else read_answers(self.out))
            if not any(isinstance(entry.get(key), (dict, list)) for key in ("picture", "frame", "question"))
            and all((entry.get(key) or None) == (fact or None) for key, fact in self.facts.items())
            and all(self._has_file(entry, key) for key in files)
        }

    def _has_file(self, entry: dict[str, Any], key: str) -> bool:
        """Whether an answer's file is there; GeoJSON only of what has it."""
        name = entry.get(key)
        return key == "geojson" if name is None else (self.out / str(name)).exists()

    def add(self, outcome: Answered | Failure) -> None:
        """Write an outcome.

        Raises:
            UserError: a file cannot be written, or who reads the lines has left and there are no files.
        """
        if isinstance(outcome, Failure):
            self._add_failure(outcome)
            return
        loaded, question = outcome.loaded, outcome.question
        named = {} if question.id is None else {"id": question.id}
        size = {"width": loaded.geometry.width, "height": loaded.geometry.height}
        entry = {"picture": loaded.name, **loaded.place, **named, **size, **outcome.finished.entry}
        true = {key: fact for key, fact in self.facts.items() if fact}
        entry |= {"seconds": round(outcome.seconds, 4), **true}
        if self.out is not None:
            entry = write_answer(self.out, loaded.stem, entry, outcome.finished.files, self.taken)
        elif self.keeps:
            self.kept.append(entry)
        self.answered += 1
        self._say(json_line(entry, sys.stdout.encoding) if self.json_to == STDOUT else in_words(entry))

    def _add_failure(self, failure: Failure) -> None:
        self.failures.append(failure)
        log.error("%s: %s", failure.what, failure.error)
        if self.json_to == STDOUT:
            self._say(json_line(failed_entry(failure), sys.stdout.encoding))

    def _say(self, line: str) -> None:
        """Print a line above the progress bar.

        Raises:
            UserError: the reader has left or the disk is full, and nothing else is written.
        """
        if self.reader_left:
            return
        try:
            with tqdm.external_write_mode(file=sys.stdout):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        except OSError as error:
            self.reader_left = True
            to_nowhere(sys.stdout)
            closed = isinstance(error, BrokenPipeError)
            why = "what reads the output has closed it" if closed else f"stdout cannot be written ({error.strerror})"
            if self.out is None:
                raise UserError(
                    f"{why}, so the remaining pictures are not asked; write the lines to a folder (--out DIR), or to a "
                    "file (> FILE)"
                ) from error
            log.warning("%s; the remaining lines are in %s alone", why, self.out / ANSWERS)

    def close(self, coco: str | None = None, tolerance: float = 0.0) -> int:
        """Say what failed, and keep it in FAILED.

        Args:
            coco: a file for all answers, those of earlier calls into the folder too.
            tolerance: of its polygons.

        Returns:
            the exit status: 0, 1 where some failed, 2 where all did

        Raises:
            UserError: a file cannot be written.
        """
        if self.out is not None:
            self._write_failed(self.out / FAILED)
        if self.failures:
            log.error("%d could not be answered:", len(self.failures))
            for failure in self.failures:
                asked = f" ({failure.question.text})" if failure.question else ""
                log.error("  %s%s: %s", failure.what, asked, failure.error)
        where = "" if self.out is None else f", written to {self.out}"
        log.info("%d answered, %d failed%s", self.answered, len(self.failures), where)
        if coco is not None:
            self._write_coco(Path(coco), tolerance)
        if self.reader_left or (self.failures and not self.answered and not self.before):
            return 2
        return 1 if self.failures else 0

    def _write_coco(self, path: Path, tolerance: float) -> None:
        """All answers about pictures; frames of videos are no files that a COCO file could name."""
        entries = self.kept if self.out is None else list(read_answers(self.out))
        pictures = [entry for entry in entries if "frame" not in entry]
        if len(pictures) < len(entries):
            log.warning("%s: %d answers about frames of videos are left out", path, len(entries) - len(pictures))
        write_coco(path, pictures, tolerance)

    def _write_failed(self, path: Path) -> None:
        """What failed in this call, a line each; an earlier call's file goes."""
        with write_errors_as_user_error(path):
            if self.failures:
                atomic_write(path, "".join(f"{json_line(failed_entry(one))}\n" for one in self.failures).encode())
            else:
                path.unlink(missing_ok=True)


def failed_entry(failure: Failure) -> dict[str, Any]:
    """The line of something that failed."""
    entry: dict[str, Any] = {"picture": failure.what, "status": "failed", "error": failure.error}
    if failure.question is not None:
        entry["question"] = failure.question.text
        if failure.question.id is not None:
            entry["id"] = failure.question.id
    return entry


def in_words(entry: dict[str, Any]) -> str:
    """A line of an answer for a person."""
    frame = f" at {entry['frame_seconds']:g} s" if "frame" in entry else ""
    masks = len(entry["masks"])
    if entry["status"] == "no_seg":
        found = f"nothing in it answers the question, says the model ({json.dumps(entry['text'], ensure_ascii=False)})"
    elif not masks:
        found = f"no whole [SEG] group, so nothing is marked ({entry['text']})"
    elif not entry["area"]:
        found = "an empty mask"
    else:
        count = f"{masks} masks" if masks > 1 else "1 mask"
        found = f"{count}, {100 * entry['area_fraction']:.2f} % of it, confidence {entry['confidence']:.2f}"
    files = [entry[key] for key in FILES if key in entry]
    return f"{entry['picture']}{frame}: {found}" + (f"  ->  {files[0]}" if files else "")


def progress(sources: Iterable[Source], every: float) -> tqdm:
    """A bar with the time that is left; the frames of videos are estimated."""
    pictures = [_frames(one, every) if one.is_video else 1 for one in sources]
    known = None not in pictures
    total = sum(count * len(one.questions) for count, one in zip(pictures, sources, strict=True)) if known else None
    return tqdm(total=total, desc="asking", unit="question", leave=False)


def _frames(video: Source, every: float) -> int | None:
    """How many frames of a video are asked about, as far as its header tells; none of one that cannot be opened."""
    try:
        return frame_count(video.path, every)
    except UserError:  # told when its turn has come
        return 0


def without_done(sources: list[Source], done: set[Key]) -> list[Source]:
    """Sources without the questions that are answered already; those about videos are left out frame by frame."""
    left = []
    for source in sources:
        name = shown_name(source.path)
        open_questions: tuple[Question, ...] = source.questions
        if not source.is_video:
            open_questions = tuple(one for one in source.questions if (name, None, one.text) not in done)
        if open_questions:
            left.append(replace(source, questions=open_questions))
    return left
