"""utils.evaluation.compare and utils.evaluation.paired."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.coverage_of_intervals import draw
from tests.training import CHECKOUT
from utils.evaluation.compare import check_comparable, compare, load
from utils.evaluation.paired import difference, permutation_p
from utils.runtime.errors import UserError


def line(record: str, intersection: int, union: int = 100, **known) -> dict:
    counts = {"intersection": intersection, "union": union, "area": 10, "pixels": 1000, "iou": intersection / union}
    names = {
        "id": record,
        "picture": record,
        "target": 0,
        "targets": 1,
        "record": record,
        "mask": 0,
        "groups": {"altitude": 30},
    }
    return {**names, **counts, "score": 0.5, "status": "ok", **known}


def folder(path: Path, lines: list[dict], data: dict | None = None, **protocol) -> Path:
    path.mkdir()
    (path / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    metrics = {"data": data or {"sha256": "1"}, "protocol": {"kind": "forced", "pass_size": 1, **protocol}}
    metrics["overall"] = {"count": len(lines), "giou": 0.5, "ciou": 0.5}
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


def test_p_by_hand() -> None:
    # Four pictures, B better by 1/2 in each: of 16 exchanges only none and all differ as much, 1/8.
    a, b = np.array([[0.0, 1, 0, 100]] * 4).T, np.array([[0.5, 1, 50, 100]] * 4).T
    for metric, rows in (("giou", slice(0, 2)), ("ciou", slice(2, 4))):
        assert permutation_p(a[rows], b[rows], metric, 10_000, 0) == pytest.approx(1 / 8, abs=0.015)
        found = difference(a[rows], b[rows], metric)
        assert (found["a"], found["b"], found["difference"], found["interval"]) == (0, 0.5, 0.5, [0.5, 0.5])
    assert permutation_p(a[:2], a[:2], "giou", 100, 0) == 1


def test_false_positives() -> None:
    random, found = np.random.default_rng(0), []
    for number in range(400):
        a, b = np.split(draw(random, 60), 2, axis=1)
        a, b = a.sum(axis=2), b.sum(axis=2)
        rows = (("giou", slice(0, 2)), ("ciou", slice(2, 4)))
        found.append([permutation_p(a[of], b[of], metric, 300, number) < 0.05 for metric, of in rows])
    assert np.all(np.abs(np.mean(found, axis=0) - 0.05) < 0.035)


def test_groups_and_sizes(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [line("x", 0), line("y", 50), line("y", 99, control="blank-question")], pass_size=2)
    b = folder(tmp_path / "b", [line("x", 50), line("y", 50), line("y", 0, target=None)])
    one, other = load(a), load(b / "scores.jsonl")
    check_comparable(one, other)
    found = compare(one, other)
    assert found == compare(one, other)
    assert (found["overall"]["all"]["count_a"], found["overall"]["all"]["count_b"]) == (2, 3)
    assert found["altitude"]["30"]["giou"]["b"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["target size"]["under 2 %"]["giou"]["difference"] == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": {"sha256": "2"}}, "'sha256' differs: '1' .* '2'"),
        ({"kind": "generate"}, "'kind' differs: 'forced' .* 'generate'"),
        ({"lines": [line("x", 0)]}, "records in .*a/scores.jsonl but not in .*b/scores.jsonl: y"),
    ],
)
def test_refused(tmp_path: Path, change: dict, message: str) -> None:
    lines = [line("x", 0), line("y", 50)]
    a, b = folder(tmp_path / "a", lines), folder(tmp_path / "b", **{"lines": lines, **change})
    with pytest.raises(UserError, match=message):
        check_comparable(load(a), load(b))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    with pytest.raises(UserError, match=f"^{lost}: not there; name the output folder of an evaluation, or its scores"):
        load(lost)
    folder(lost, [line("x", 0)])
    for name, value in (("data", None), ("protocol", None)):
        metrics = json.loads((lost / "metrics.json").read_text())
        (lost / "metrics.json").write_text(json.dumps({**metrics, name: value}))
        with pytest.raises(UserError, match=f"metrics.json: {name} is missing"):
            load(lost)
        (lost / "metrics.json").write_text(json.dumps(metrics))


def test_as_a_command(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [line("x", 0), line("y", 50)]), folder(tmp_path / "b", [line("x", 50), line("y", 50)])
    command = [sys.executable, "-m", "utils.evaluation.compare", str(a), str(b), "--out", str(tmp_path / "o.json")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lost = subprocess.run([*command[:3], str(tmp_path / "c"), str(b)], cwd=CHECKOUT, capture_output=True, text=True)
    assert lost.returncode == 2 and "Traceback" not in lost.stderr and f"error: {tmp_path / 'c'}: not" in lost.stderr
    assert "+0.2500" in done.stdout
    assert json.loads((tmp_path / "o.json").read_text())["overall"]["all"]["giou"]["difference"] == pytest.approx(0.25)


def test_metrics_that_one_side_lacks_are_not_compared_and_none_in_common_is_told(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [line("x", 0)]), folder(tmp_path / "b", [line("x", 50)])
    (a / "metrics.json").write_text((a / "metrics.json").read_text().replace('"giou"', '"pr50"'))
    assert list(compare(load(a), load(b))["overall"]["all"]) == ["count_a", "count_b", "ciou"]
    (a / "metrics.json").write_text((a / "metrics.json").read_text().replace('"ciou"', '"pr70"'))
    with pytest.raises(UserError, match="no metric in common: .* has pr50, pr70, .* has giou, ciou; score both by"):
        check_comparable(load(a), load(b))


def test_questions_are_compared_by_their_number_of_targets_where_they_differ_in_it(tmp_path: Path) -> None:
    lines = [line("x", 50), line("y", 10, targets=2), line("y", 30, target=1, targets=2)]
    a, b = folder(tmp_path / "a", lines), folder(tmp_path / "b", lines[:1] + [line("y", 20, targets=2), lines[2]])
    found = compare(load(a), load(b))["targets"]
    assert list(found) == ["1", "2"] and found["1"]["giou"]["difference"] == 0
    assert found["2"]["giou"]["difference"] == pytest.approx(0.05, abs=1e-6)
