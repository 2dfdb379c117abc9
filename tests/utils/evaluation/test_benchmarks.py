"""utils.evaluation.benchmarks and report.benchmark_table: which are evaluated, and the table that they end in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.cli.eval_options import EvalArgs
from utils.datasets.registry import DATASETS
from utils.evaluation.benchmarks import FILE, chosen_benchmarks, known_benchmarks, readable_splits
from utils.evaluation.metrics import METRICS
from utils.evaluation.report.benchmark_table import GROUNDED_TITLES, Evaluated, benchmark_page, benchmark_table
from utils.runtime.errors import UserError

FOUND = {
    "overall": {"count": 4, "giou": 0.5, "ciou": 0.25, "giou_interval": [0.4, 0.6]},
    "data": {"dataset": "reasonseg", "split": "val", "records": 4, "pictures": 4, "skipped": []},
    "answers": {"records": 4, "no_seg": 0, "broken": 0, "wrong_count": 0, "missing": 0, "malformed": None},
}
PUBLISHED = [
    {"model": "LISA <7B>", "split": "val", "giou": 44.4, "source": "a paper, table 1"},
    {"model": "Other", "split": "test", "giou": 11.1, "ciou": 22.2, "source": "another"},
]


def evaluated(**changes: Any) -> Evaluated:
    return Evaluated("reasonseg", "ReasonSeg", "val", ("giou", "ciou"), {**FOUND, **changes}, PUBLISHED)


def test_the_file_names_data_sets_splits_metrics_and_sources_that_there_are() -> None:
    assert list(known_benchmarks()) == [entry["name"] for entry in yaml.safe_load(FILE.read_text())]
    columns = {*METRICS, *GROUNDED_TITLES}
    for one in known_benchmarks().values():
        assert set(one.splits) <= set(one.spec.splits) and one.dataset in DATASETS
        assert columns.issuperset(one.metrics)
        for row in one.published:
            assert row["split"] in one.splits and row["source"] and row["model"]
            values = {name: value for name, value in row.items() if name in columns}
            assert values and all(0 < value <= 200 for value in values.values())
            assert set(row) - set(values) <= {"model", "split", "source", "group", "note"}


def test_benchmarks_stand_in_the_order_of_papers_and_then_ones_own() -> None:
    chosen = chosen_benchmarks("roofs,reasonseg@val,drseg", "roofs=coco:data/roofs,drseg=data/mine")
    assert [(one.name, one.dataset, one.splits) for one in chosen] == [
        ("drseg", "drseg", ("test",)),
        ("reasonseg", "reasonseg", ("val",)),
        ("roofs", "coco", ("test",)),
    ]
    assert [str(one.root) for one in chosen] == ["data/mine", "data/reason_seg", "data/roofs"]
    assert [one.name for one in chosen_benchmarks("all", "")] == list(known_benchmarks())
    assert chosen_benchmarks("reasonseg@val,reasonseg@test", "")[0].splits == ("val", "test")
    assert chosen_benchmarks("refcoco,refcoco@testA,refcoco@test", "")[0].splits == ("val", "testA", "testB", "test")


def test_an_unknown_one_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match="--benchmarks drseg,best: 'best' is unknown; known are all, drseg, "):
        chosen_benchmarks("drseg,best", "")


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("reasonseg@best", "", "reasonseg has no split 'best'; train, val, test"),
        ("reasonseg@../up", "", "'../up' is no name of letters"),
        ("../up", "../up=coco:data", "'../up' is no name of letters"),
    ],
)
def test_names_that_cannot_be_are_told(text: str, data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen_benchmarks(text, data)


def test_a_split_that_is_not_on_disk_is_skipped_and_told(
    make_drseg: Callable[..., Path], make_record: Callable[..., dict]
) -> None:
    root = make_drseg([make_record()])  # a test split alone
    chosen = chosen_benchmarks("drseg@test,drseg@val", f"drseg={root}")
    there, missing = readable_splits(chosen, EvalArgs(model="m", data=str(root)))
    assert [(one.name, split) for one, split in there] == [("drseg", "test")]
    assert len(missing) == 1 and missing[0].startswith(
        f"DRSeg val: skipped, {root}/labels/DRSeg_val.json: no such split"
    )


def test_the_table_sets_what_was_measured_beside_what_is_published_in_percent() -> None:
    lines = benchmark_table([evaluated()]).splitlines()
    assert lines[1].split() == ["ReasonSeg", "val", "gIoU", "cIoU"]
    assert lines[2].split() == ["this", "model", "50.0", "25.0"]
    assert lines[3].split() == ["LISA", "<7B>", "44.4", "–"] and len(lines) == 4


def test_official_values_stand_in_a_row_of_their_own_where_they_differ() -> None:
    official = {"count": 4, "giou": 0.4, "ciou": 0.25}
    lines = benchmark_table([evaluated(official=official)]).splitlines()
    assert lines[3].split() == ["this", "model,", "official", "rules", "40.0", "25.0"]
    assert "official" not in benchmark_table([evaluated(official={"count": 4, "giou": 0.5, "ciou": 0.25})])


def test_scores_of_descriptions_have_columns() -> None:
    grounded = {"all": {"ap50": 0.3, "miou": 0.5, "recall": None}, "cider": 0.25}
    one = Evaluated("grandf", "GranD-f", "val", ("ap50", "recall", "cider"), {**FOUND, "grounded": grounded}, [])
    assert benchmark_table([one]).splitlines()[2].split() == ["this", "model", "30.0", "–", "25.0"]
    grounded |= {"all": {"ap50": 0.3, "miou": 0.5, "recall": 0.6}, "official_recall": 0.4}
    rows = benchmark_table([one]).splitlines()
    assert rows[2].split()[2:] == ["30.0", "60.0", "25.0"] and rows[3].split()[-3:] == ["30.0", "40.0", "25.0"]


def test_the_page_leads_to_each_report_names_sources_and_escapes_names() -> None:
    page = benchmark_page([evaluated()], ["MUSE: skipped, <data/muse> is not there"])
    assert 'href="reasonseg/val/report.html"' in page and "a paper, table 1" in page and "another" not in page
    assert "LISA &lt;7B&gt;" in page and "&lt;data/muse&gt;" in page and "<7B>" not in page
    assert "reasonseg val: 4 records about 4 pictures" in page


def test_all_values_of_a_split_are_in_the_json(tmp_path: Path) -> None:
    found = evaluated().as_json()
    assert found["overall"] == FOUND["overall"] and found["published"] == PUBLISHED[:1] and found["split"] == "val"
