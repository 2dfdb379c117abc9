"""utils.evaluation.predictions: the file that stands between predicting and scoring."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from model.masks import encode_mask
from utils.evaluation import predictions
from utils.evaluation.header import FORMAT
from utils.evaluation.predictions import (
    FILE,
    PARTIAL,
    PartialPredictions,
    Record,
    check_mask,
    claimed,
    line_of,
    pixels_of,
    read_predictions,
)
from utils.runtime.errors import UserError

MASK = encode_mask(np.eye(4, 5))
HEADER = {"format": FORMAT, "data": {"split": "test"}}


def record(name: str = "a", **fields: Any) -> Record:
    whole = {"id": name, "question": "Which?", "text": "It.", "status": "ok", "masks": [MASK], "scores": [0.5]}
    return {**whole, "control": "none", **fields}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: Any) -> Path:
        path = tmp_path / "some.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return write


# Reading


def test_a_file_is_read_by_control_and_id(write: Callable[..., Path]) -> None:
    blank = record("a", control="blank-question", masks=[], scores=[])
    header, found = read_predictions(write(HEADER, record("a"), blank, record("b")))
    assert header == HEADER
    assert found == {"none": {"a": record("a"), "b": record("b")}, "blank-question": {"a": blank}}


def test_phrases_are_kept_where_they_are_given(write: Callable[..., Path]) -> None:
    _, found = read_predictions(write(record("a", phrases=["a car"]), record("b", phrases=None)))
    assert found["none"]["a"]["phrases"] == ["a car"] and "phrases" not in found["none"]["b"]
    assert json.loads(line_of(found["none"]["a"]))["phrases"] == ["a car"]
    with pytest.raises(UserError, match="line 1: 2 phrases for 1 masks, expected one for each"):
        read_predictions(write(record("a", phrases=["a car", "a road"])))
    with pytest.raises(UserError, match=r"line 1: phrases is .*, expected a list of a text for each mask"):
        read_predictions(write(record("a", phrases=[3])))


def test_id_question_and_masks_are_enough(write: Callable[..., Path]) -> None:
    header, found = read_predictions(write({"id": "a", "question": "?", "masks": [], "own": "field"}))
    assert header is None
    assert found == {"none": {"a": record("a", question="?", text="", masks=[], scores=None)}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": None}, "id is 'None', expected a text"),
        ({"id": 3}, "id is '3', expected a text"),
        ({"question": ["?"]}, r"question is \"\['\?'\]\", expected a text"),
        ({"text": 1}, "text is '1', expected a text"),
        ({"status": 1}, "status is '1', expected one of ok, no_seg, broken"),
        ({"status": "missing"}, "status is 'missing', expected one of ok, no_seg, broken"),
        ({"control": "swapped"}, "control is 'swapped', expected one of none, shuffled-questions, "),
        ({"masks": MASK}, "masks is .*, expected a list of COCO run lengths"),
        ({"masks": [MASK, [1, 2]], "scores": None}, r"masks\[1\] is \[1, 2\], expected \{\"size\""),
        ({"masks": [{"size": [4, 5]}]}, r"masks\[0\] is .*, expected \{\"size\""),
        ({"masks": [{**MASK, "size": [4, 6]}]}, r"masks\[0\] is "),
        ({"scores": 0.5}, "scores is '0.5', expected a list of a number for each mask"),
        ({"scores": [0.5, 0.5]}, r"scores are \[0.5, 0.5\], expected a number from 0 to 1 for each mask"),
        ({"scores": [1.5]}, r"scores are \[1.5\], expected a number from 0 to 1"),
        ({"scores": [True]}, r"scores are \[True\], expected a number from 0 to 1"),
    ],
)
def test_what_is_no_record_is_told_with_line_and_field(
    write: Callable[..., Path], change: dict[str, Any], told: str
) -> None:
    path = write(HEADER, record("a"), record("b", **change))
    with pytest.raises(UserError, match=f"^{path}, line 3: {told}"):
        read_predictions(path)


@pytest.mark.parametrize("field", ["id", "question", "masks"])
def test_a_field_that_is_missing_is_told(write: Callable[..., Path], field: str) -> None:
    lacking = {name: value for name, value in record("a").items() if name != field}
    with pytest.raises(UserError, match=f"line 1: {field} is missing, expected a "):
        read_predictions(write(lacking))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([record("a"), record("b"), record("a")], "line 3: a second record of id 'a'; leave one of both out"),
        ([{**HEADER, "format": "predictions 9"}], f"line 1: format is 'predictions 9', expected {FORMAT!r}"),
        ([{**HEADER, "protocol": 3}], "line 1: protocol is 3, expected an object"),
        ([record("a"), HEADER], "line 2: id is missing"),
        ([record("a"), "[1]"], "line 2: holds a list, expected an object"),
        ([record("a"), '{"id": "b", "ques'], "line 2: not JSON .*ends in the middle"),
        ([record("a"), '{"id": NaN}'], r"line 2: \.id is nan, no number"),
        ([HEADER], "holds no record; a line a question is expected"),
        ([record("a", control="blank-question")], "holds no record"),
    ],
)
def test_what_is_no_file_of_predictions_is_told(write: Callable[..., Path], lines: list[Any], told: str) -> None:
    path = write(*lines)
    with pytest.raises(UserError, match=f"^{path}(, |: ){told}"):
        read_predictions(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such predictions file"):
        read_predictions(tmp_path / "none.jsonl")


# Run lengths


def test_run_lengths_are_counted_as_pycocotools_decodes_them() -> None:
    generator = np.random.default_rng(0)
    for number in range(300):
        height, width = generator.integers(1, (400, 600) if number % 30 == 0 else (40, 60))
        coarse = generator.random((height // 7 + 1, width // 5 + 1)) < generator.random()
        mask = np.kron(coarse, np.ones((7, 5)))[:height, :width] > 0
        if number % 3 == 0:
            mask ^= generator.random(mask.shape) < 0.1
        rle = encode_mask(mask)
        assert pixels_of(rle["counts"]) == mask.size == coco.decode(rle).size
        check_mask("", rle)
        for changed in ([height, width + 1], [height + 1, width], [height * 2, width]):
            with pytest.raises(UserError):
                check_mask("", {**rle, "size": changed})


@pytest.mark.parametrize("mask", [np.zeros((3, 4)), np.ones((3, 4)), np.zeros((2160, 3840)), np.ones((1, 1))])
def test_empty_and_full_masks_are_masks(mask: np.ndarray) -> None:
    check_mask("", encode_mask(mask))


@pytest.mark.parametrize(
    "mask",
    [
        None,
        "04",
        {"size": [2, 2], "counts": [0, 4]},
        {"size": [2], "counts": "04"},
        {"size": [2, 2, 1], "counts": "04"},
        {"size": [2.0, 2], "counts": "04"},
        {"size": [True, 4], "counts": "04"},
        {"size": [0, 0], "counts": ""},
        {"size": [-2, -2], "counts": "04"},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "0"},
        {"size": [2, 2], "counts": "0T"},  # cut off: another group is to follow
        {"size": [2, 2], "counts": "8L"},  # 8 and -4
        {"size": [2, 2], "counts": "´"},  # 4, if letters beyond ASCII were no two bytes to pycocotools
        {"size": [2, 2], "counts": "t"},  # 4 and a seventh bit
        {"size": [2, 2], "counts": "021\x0f"},  # 0, 2, 1 and 1, by a character before the first
        {"size": [2, 2], "counts": f"T{'P' * 6}0"},  # 4, in eight groups
        {"size": [2**16, 2**16], "counts": "0PPPPPP4"},  # 2**32, which is 0 in 32 bits
    ],
)
def test_what_is_no_mask_is_told(mask: Any) -> None:
    with pytest.raises(UserError, match=r'^here is .*, expected \{"size": \[height, width\], "counts": text\}'):
        check_mask("here", mask)


def test_runs_of_as_many_groups_as_are_needed_are_masks() -> None:
    large = [2**16, 2**16 - 1]
    encoded = coco.frPyObjects({"size": large, "counts": [0, 1, large[0] * large[1] - 3, 2]}, *large)
    rle = {"size": large, "counts": encoded["counts"].decode()}
    assert pixels_of(rle["counts"]) == large[0] * large[1]
    check_mask("", rle)
    check_mask("", {"size": [2, 2], "counts": f"T{'P' * 5}0"})  # 4, in seven


def test_only_a_control_other_than_none_is_written() -> None:
    assert "control" not in json.loads(line_of(record()))
    assert json.loads(line_of(record(control="blank-question")))["control"] == "blank-question"


# Written while an evaluation runs


def started(out: Path, header: dict[str, Any] | None = None, rank: int = 0, lines: tuple[Record, ...] = ()) -> None:
    """What a process leaves that is stopped."""
    partial = PartialPredictions(out, header or HEADER)
    partial.write(lines)
    partial.close()
    if rank:
        (out / PARTIAL / "0.jsonl").write_text(f"{json.dumps(header or HEADER)}\n")
        (out / PARTIAL / f"{rank}.jsonl").write_text("".join(f"{line_of(one)}\n" for one in lines))


def test_an_evaluation_goes_on_from_what_was_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert PartialPredictions(tmp_path, HEADER).records == [] and not caplog.records
    started(tmp_path, lines=(record("b"), record("a")))
    again = PartialPredictions(tmp_path, HEADER)
    assert again.records == [record("b"), record("a")] and "goes on from 2 answers" in caplog.text
    again.write([record("a"), record("c", control="blank-question"), record("c")])
    again.close()
    again.finish(["c", "a", "b"])
    stopped = PartialPredictions(tmp_path, HEADER)  # before the scores were written
    assert len(stopped.records) == 4
    stopped.discard()
    assert not (tmp_path / PARTIAL).exists()
    header, found = read_predictions(tmp_path / FILE)
    assert header == HEADER and [*found["none"], *found["blank-question"]] == ["c", "a", "b", "c"]
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line).get("id") for line in lines] == [None, "c", "c", "a", "b"]


@pytest.mark.parametrize("kept", [*range(0, 200, 7), 9])  # 9 lies within the ü
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, kept: int) -> None:
    started(tmp_path, lines=(record("a"), record("ü")))
    file = tmp_path / PARTIAL / "0.jsonl"
    whole = file.read_bytes()
    last = len(whole) - len(f"{line_of(record('ü'))}\n".encode())
    file.write_bytes(whole[: min(last + kept, len(whole) - 1)])
    again = PartialPredictions(tmp_path, HEADER)
    assert again.records == [record("a")]
    again.write([record("b")])
    again.close()
    again.finish(["a", "b"])
    assert list(read_predictions(tmp_path / FILE)[1]["none"]) == ["a", "b"]


@pytest.mark.parametrize(
    "left",
    [
        b"\0" * 4096,
        b"\0" * 300 + b"\n",
        b'{"id": "\xc3\n',
        b'{"id": "c"}\n',
        b"[]\n",
        b'{"id": "c", \0\0\0\n' + f"{line_of(record('d'))}\n".encode(),
    ],
)
def test_lines_that_lost_their_power_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: bytes
) -> None:
    started(tmp_path, rank=1, lines=(record("a"), record("ü")))
    file = tmp_path / PARTIAL / "1.jsonl"
    file.write_bytes(file.read_bytes() + left)
    again = PartialPredictions(tmp_path, HEADER)
    assert again.records == [record("a"), record("ü")]
    assert f"{file}, line 3: " in caplog.text and "left out with what follows in the file" in caplog.text
    again.close()
    again.finish(["a", "ü"])
    assert list(read_predictions(tmp_path / FILE)[1]["none"]) == ["a", "ü"]


@pytest.mark.parametrize("left", [b"\0" * 200, b"\xc3"])
def test_a_header_that_lost_its_power_begins_anew(tmp_path: Path, left: bytes) -> None:
    started(tmp_path, lines=(record("a"),))
    file = tmp_path / PARTIAL / "0.jsonl"
    file.write_bytes(file.read_bytes()[:10] + left)
    assert PartialPredictions(tmp_path, HEADER).records == []


def test_what_cannot_be_read_back_does_not_go_missing_in_the_results(tmp_path: Path) -> None:
    partial = PartialPredictions(tmp_path, HEADER)
    partial.write([record("a")])
    partial.file.write('{"id": "b')
    partial.close()
    with pytest.raises(UserError, match=r"0.jsonl, line 3: cut off"):
        partial.finish(["a", "b"])
    assert not (tmp_path / FILE).exists() and (tmp_path / PARTIAL).exists()


def test_files_of_all_processes_are_gone_on_from(tmp_path: Path) -> None:
    started(tmp_path, rank=3, lines=(record("a"),))
    again = PartialPredictions(tmp_path, HEADER)
    assert again.records == [record("a")]
    assert [path.name for path in (tmp_path / PARTIAL).iterdir()] == ["0.jsonl"]


@pytest.mark.parametrize("lost", [False, True])
def test_another_header_or_none_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: bool) -> None:
    started(tmp_path, rank=1, lines=(record("a"),))
    if lost:
        (tmp_path / PARTIAL / "0.jsonl").unlink()
    again = PartialPredictions(tmp_path, HEADER if lost else {**HEADER, "data": {"split": "val"}})
    assert again.records == [] and "left by an evaluation with other settings, weights or code" in caplog.text
    assert [path.name for path in (tmp_path / PARTIAL).iterdir()] == ["0.jsonl"]


def test_every_process_writes_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PartialPredictions(tmp_path, HEADER)
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "rank", lambda: 1)
        patch.setattr(predictions, "broadcast_from_rank0", lambda compute: first.records)
        second = PartialPredictions(tmp_path, {})
    second.write([record("b")])
    first.write([record("a")])
    second.close()
    first.close()
    assert sorted(path.name for path in (tmp_path / PARTIAL).iterdir()) == ["0.jsonl", "1.jsonl"]
    first.finish(["a", "b"])
    assert list(read_predictions(tmp_path / FILE)[1]["none"]) == ["a", "b"]


def test_two_evaluations_do_not_write_into_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def another() -> None:
        try:
            with claimed(tmp_path):
                told.put("claimed")
        except UserError as error:
            told.put(str(error))

    def told_by_another_process() -> str:
        process = context.Process(target=another)
        process.start()
        process.join()
        return told.get()

    with claimed(tmp_path):
        assert told_by_another_process().startswith(f"{tmp_path}: another evaluation writes there; wait, or name")
    assert told_by_another_process() == "claimed"
