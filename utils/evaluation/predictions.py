"""predictions.jsonl: what stands between predicting and scoring, so that anyone's answers are scored alike.

The format is described in `utils/evaluation/README.md`. Lines are written as answers come; those of an evaluation that
was stopped are gone on from.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from model.answering import STATUSES
from model.masks import pixels_of
from utils.evaluation.controls import CONTROLS, NO_CONTROL
from utils.runtime.distributed import broadcast_from_rank0, rank
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_file, exclusive_lock, write_errors_as_user_error
from utils.runtime.json_files import parse_json
from utils.runtime.paths import entries, is_file

log = logging.getLogger(__name__)

FORMAT = "PixDLM predictions 1"
FILE, PARTIAL = "predictions.jsonl", "predictions.partial"
Record = dict[str, Any]  # a line: id, question, text, status, masks, scores, control
Records = dict[str, dict[str, Record]]  # by control and id

KINDS: dict[str, tuple[type, str]] = {
    "id": (str, "a text"),
    "question": (str, "a text"),
    "text": (str, "a text"),
    "status": (str, f"one of {', '.join(STATUSES)}"),
    "masks": (list, "a list of COCO run lengths"),
    "scores": (list, "a list of a number for each mask"),
    "control": (str, f"one of {', '.join(CONTROLS)}"),
}
DEFAULTS = {"text": "", "status": "ok", "scores": None, "control": NO_CONTROL}


def read_predictions(path: Path) -> tuple[dict[str, Any] | None, Records]:
    """The header, None where there is none, and the records of a predictions file.

    Raises:
        UserError: the file cannot be read, or a line is no record; line and field are named.
    """
    if not is_file(path):
        raise UserError(f"{path}: no such predictions file; eval.py writes one, or write your own (its README)")
    header, records = None, {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            value = parse_json(line, where)
            if not isinstance(value, dict):
                raise UserError(f"{where}: holds a {type(value).__name__}, expected an object")
            if number == 1 and "format" in value:
                header = checked_header(where, value)
                continue
            record = checked_record(where, value)
            of_control = records.setdefault(record["control"], {})
            if record["id"] in of_control:
                raise UserError(f"{where}: a second record of id {record['id']!r}; leave one of both out")
            of_control[record["id"]] = record
    if NO_CONTROL not in records:
        raise UserError(f"{path}: holds no record; a line a question is expected")
    return header, records


def checked_header(where: str, value: dict[str, Any]) -> dict[str, Any]:
    """The header, if it is of this format.

    Raises:
        UserError: it is of another.
    """
    if value["format"] != FORMAT:
        raise UserError(f"{where}: format is {value['format']!r}, expected {FORMAT!r}")
    for name in ("data", "protocol"):
        if not isinstance(value.get(name, {}), dict):
            raise UserError(f"{where}: {name} is {value[name]!r}, expected an object")
    return value


def checked_record(where: str, value: dict[str, Any]) -> Record:
    """A line's record with all of its fields.

    Raises:
        UserError: naming the line and the field that is missing or something else.
    """
    record = {**DEFAULTS, **{name: given for name, given in value.items() if name in KINDS}}
    for name, (kind, expected) in KINDS.items():
        if name not in record:
            raise UserError(f"{where}: {name} is missing, expected {expected}")
        if not isinstance(record[name], kind) and not (name == "scores" and record[name] is None):
            raise UserError(f"{where}: {name} is {str(record[name])[:60]!r}, expected {expected}")
    for name, known in (("status", STATUSES), ("control", CONTROLS)):
        if record[name] not in known:
            raise UserError(f"{where}: {name} is {record[name]!r}, expected one of {', '.join(known)}")
    for i, mask in enumerate(record["masks"]):
        check_mask(f"{where}: masks[{i}]", mask)
    scores = record["scores"]
    if scores is not None and (len(scores) != len(record["masks"]) or not all(map(is_score, scores))):
        raise UserError(f"{where}: scores are {str(scores)[:60]}, expected a number from 0 to 1 for each mask")
    return record


def is_score(value: Any) -> bool:
    """Whether a value is a confidence."""
    return type(value) in (int, float) and 0 <= value <= 1


def check_mask(where: str, mask: Any) -> None:
    """Check that a mask is run lengths that fill its size.

    Raises:
        UserError: it is not.
    """
    try:
        height, width = mask["size"]
        if type(height) is not int or type(width) is not int or not isinstance(mask["counts"], str):
            raise TypeError
        if height < 1 or width < 1 or not mask["counts"].isascii() or pixels_of(mask["counts"]) != height * width:
            raise ValueError
    except (TypeError, KeyError, ValueError, IndexError) as error:
        expected = '{"size": [height, width], "counts": text} as pycocotools encodes it'
        raise UserError(f"{where} is {str(mask)[:60]}, expected {expected}") from error


def line_of(record: Record) -> str:
    """A record as a line; a control of none is left out."""
    kept = {name: value for name, value in record.items() if (name, value) != ("control", NO_CONTROL)}
    return json.dumps(kept, ensure_ascii=False)


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Let one evaluation at a time write into a folder.

    Raises:
        UserError: another one does, or it cannot be written.
    """
    with ExitStack() as held:

        def claim() -> None:
            with write_errors_as_user_error(out):
                try:
                    held.enter_context(exclusive_lock(out / ".evaluation.lock"))
                except BlockingIOError as error:
                    raise UserError(f"{out}: another evaluation writes there; wait, or name another --out") from error

        broadcast_from_rank0(claim if rank() == 0 else None)
        yield


class PartialPredictions:
    """The predictions of an evaluation that runs, a file for each process in OUT/predictions.partial.

    Args:
        out: the output folder.
        header: of the evaluation; what another one has left is not gone on from.

    Raises:
        UserError: nothing can be written there.
    """

    def __init__(self, out: Path, header: dict[str, Any]) -> None:
        self.out, self.folder = out, out / PARTIAL
        self.header = json.dumps(header, ensure_ascii=False)
        self.records: list[Record] = broadcast_from_rank0(self._found if rank() == 0 else None)
        self.file = open(self.folder / f"{rank()}.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)

    def _found(self) -> list[Record]:
        """What an earlier start has written; a folder of one file with that and the header is left."""
        files = [path for path in entries(self.folder) if path.suffix == ".jsonl"]
        first = self.folder / "0.jsonl"
        if files and not (is_file(first) and first.read_text(encoding="utf-8").startswith(f"{self.header}\n")):
            log.warning("%s: left by an evaluation with other settings, weights or code; begun anew", self.folder)
            shutil.rmtree(self.folder)
            files = []
        found = {(one["control"], one["id"]): one for path in files for one in self._records_in(path)}
        if files:
            log.info("goes on from %d answers of an evaluation that was stopped, in %s", len(found), self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [self.header, *map(line_of, found.values())]
        with write_errors_as_user_error(self.folder), atomic_file(self.folder / "0.jsonl") as beside:
            beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for path in files:
            if path.name != "0.jsonl":
                path.unlink()
        return list(found.values())

    def _records_in(self, path: Path) -> list[Record]:
        """Those of a process's file; a line that was cut off is left out."""
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
        return [checked_record(str(path), json.loads(line)) for line in lines if '"format"' not in line[:12]]

    def write(self, records: Iterable[Record]) -> None:
        """Append records, together.

        Raises:
            UserError: the file cannot be written.
        """
        with write_errors_as_user_error(self.folder):
            self.file.write("".join(f"{line_of(one)}\n" for one in records))
            self.file.flush()

    def close(self) -> None:
        """Close this process's file."""
        self.file.close()

    def finish(self, keys: list[str]) -> None:
        """Write predictions.jsonl, records in the order of `keys` and controls; on rank 0, after all have closed."""
        found = {(one["control"], one["id"]): one for path in entries(self.folder) for one in self._records_in(path)}
        order = {key: i for i, key in enumerate(keys)}
        ordered = sorted(found.values(), key=lambda one: (order[one["id"]], CONTROLS.index(one["control"])))
        with atomic_file(self.out / FILE) as beside, open(beside, "w", encoding="utf-8") as file:
            file.write(f"{self.header}\n")
            file.writelines(f"{line_of(one)}\n" for one in ordered)
        shutil.rmtree(self.folder)
