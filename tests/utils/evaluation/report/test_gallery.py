"""utils.evaluation.report.gallery: evaluations joined with their records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.masks import encode_mask
from tests.utils.evaluation.report.evaluated import make_samples, pixels, write_run
from utils.datasets.base import Sample
from utils.evaluation.report.gallery import KINDS, build_gallery, kind_of
from utils.evaluation.report.outlines import outline
from utils.evaluation.report.runs import read_runs
from utils.evaluation.scores_file import Pair
from utils.runtime.errors import UserError

TITLES = {"reasoning_type": "reasoning type", "altitude": "altitude (m)"}


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Sample]:
    return make_samples(tmp_path / "frames")


def data_of(samples: dict[str, Sample], *folders: Path) -> dict[str, Any]:
    return build_gallery(read_runs(list(folders)), samples, False, TITLES).data


def test_each_pair_has_one_kind_and_an_answer_s_failure_comes_first() -> None:
    pair = Pair("a", "p", 0, 0, 0.0, 0, 1, 1, 9, None, "ok")
    kinds = [kind_of(replace(pair, iou=iou)) for iou in (0.0, 1e-9, 0.4999, 0.5, 1.0)]
    assert kinds == ["missed", "poor", "poor", "good", "good"]
    failed = ("no_seg", "broken", "wrong_count", "missing")
    assert [kind_of(replace(pair, status=status, iou=0.9)) for status in failed] == list(failed)
    assert set(KINDS) == {*kinds, *failed}


def test_rows_name_their_picture_groups_and_paths(samples: dict[str, Sample], tmp_path: Path) -> None:
    gallery = build_gallery(read_runs([write_run(tmp_path / "a", samples)]), samples, False, TITLES)
    data, rows = gallery.data, gallery.data["records"]
    assert len(gallery.pictures) == len(data["pictures"]) == 6 and data["pictures"][0] == (1024, 768)
    assert [row[0] for row in rows] == list(samples) and [row[3] for row in rows] == [n // 2 for n in range(12)]
    assert gallery.pictures[rows[5][3]][0] == samples["r5"].image_path
    for number, row in enumerate(rows):
        values = [values[index] for (_, values), index in zip(data["groups"], row[5], strict=True)]
        assert values == [str(value) for value in samples[row[0]].groups.values()]
        assert row[4] == samples[row[0]].question and row[6] == pytest.approx(1 / 12, rel=0.01) and row[7] == 1
        assert row[8].startswith("M") and row[10][0][3] == f"answer {number} <b>bold</b>"
        assert row[9] == "The annotated one."
    assert [row[10][0][4] == "" for row in rows] == [number == 1 for number in range(12)]
    assert list(KINDS)[rows[2][10][0][2]] == "broken" and rows[4][10][0][:2] == [0.25, 0.86]


def test_two_runs_are_joined_by_target_and_each_keeps_its_own_masks(samples: dict[str, Sample], tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", samples)
    other = write_run(tmp_path / "b", dict(reversed(samples.items())))  # whose masks lie elsewhere
    rows = data_of(samples, one, other)["records"]
    alone = [{row[0]: row[10][0] for row in data_of(samples, folder)["records"]} for folder in (one, other)]
    assert len(rows) == 12 and alone[0]["r5"] != alone[1]["r5"]
    assert all(row[10] == [alone[0][row[0]], alone[1][row[0]]] for row in rows)


def test_what_one_run_lacks_is_empty(samples: dict[str, Sample], tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", samples)
    other = write_run(tmp_path / "b", {key: samples[key] for key in ("r0", "r7")})
    rows = data_of(samples, other, one)["records"]
    assert len(rows) == 12 and [row[0] for row in rows[:2]] == ["r0", "r7"]
    assert [row[10][0] == 0 for row in rows] == [False] * 2 + [True] * 10 and all(row[10][1] for row in rows)


def test_a_mask_that_no_target_is_for_is_shown(samples: dict[str, Sample], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", samples)
    lines = (folder / "scores.jsonl").read_text().splitlines()
    extra = {**json.loads(lines[-2]), "target": None, "area": 0, "iou": 0.0, "status": "wrong_count"}
    (folder / "scores.jsonl").write_text("\n".join([*lines, json.dumps(extra)]) + "\n")
    row = data_of(samples, folder)["records"][-1]
    assert (row[1], row[6], row[7], row[8]) == (None, None, -1, "") and row[10][0][4].startswith("M")


@pytest.mark.parametrize("untargeted", [False, True])
def test_masks_that_count_as_one_are_drawn_as_their_union(
    samples: dict[str, Sample], tmp_path: Path, untargeted: bool
) -> None:
    folder = write_run(tmp_path / "a", {"r5": samples["r5"]})
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    lines[1] |= {"masks": [encode_mask(pixels(10)), encode_mask(pixels(80))], "scores": [0.5, 0.5]}
    (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if untargeted:  # a question that nothing answers
        score = json.loads((folder / "scores.jsonl").read_text().splitlines()[0])
        (folder / "scores.jsonl").write_text(json.dumps({**score, "target": None, "merged": True, "area": 0}))
    sample = replace(samples["r5"], targets=() if untargeted else samples["r5"].targets * 2)
    (row,) = build_gallery(read_runs([folder]), {"r5": sample}, not untargeted, TITLES).data["records"]
    assert row[10][0][4] == outline(pixels(10) | pixels(80)) and row[2] == (0 if untargeted else 1)


def test_records_and_targets_that_the_data_lack_are_named(samples: dict[str, Sample], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", samples)
    fewer = {key: sample for key, sample in samples.items() if key != "r3"}
    with pytest.raises(UserError, match=r"scores.jsonl: 1 of 12 scores .* lacks, such as 'r3'"):
        data_of(fewer, folder)
    without = {**samples, "r3": replace(samples["r3"], targets=())}
    with pytest.raises(UserError, match=r"record 'r3' has 0 targets in the data, but its target 0 was scored"):
        data_of(without, folder)


def test_paths_of_many_masks_share_a_number_of_bytes(
    samples: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = []
    monkeypatch.setattr(
        "utils.evaluation.report.outlines.outline", lambda mask, longest: allowed.append(longest) or outline(mask)
    )
    monkeypatch.setattr("utils.evaluation.report.gallery.OUTLINE_BYTES", 23 * 400)  # 12 targets and 11 masks
    data_of(samples, write_run(tmp_path / "a", samples))
    assert allowed == [400] * 23
