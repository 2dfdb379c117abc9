"""utils.datasets.formats.refer_labels: refs and objects as files."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from tests.utils.datasets.formats.drawn_refer import annotation, ref, write_set
from utils.datasets.formats import refer_labels
from utils.datasets.formats.refer_labels import ReferSet, label_files, parsed
from utils.runtime.errors import UserError

LAYOUT = "all/refs.p\nall/instances.json\npictures/{id}.jpg"
DATA = ReferSet(
    "roofs", ("all/refs.p", "all/refs.json"), "all/instances.json", "pictures", ("val",), LAYOUT, "the moon"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path, "all/refs.p", "pictures", [ref(1, "val")], [annotation(1), annotation(2)])


def files(root: Path) -> tuple[Path, Path]:
    return root / "all" / "refs.p", root / "all" / "instances.json"


@pytest.mark.parametrize("missing", ["all/refs.p", "all/instances.json", "pictures"])
def test_a_part_that_is_missing_is_told_with_the_tree_what_is_there_and_the_source(root: Path, missing: str) -> None:
    (root / missing).rename(root / "moved")
    with pytest.raises(UserError) as caught:
        label_files(DATA, root)
    first, *tree, last = str(caught.value).splitlines()
    assert first == f"{root / missing}: not there; expected is"
    assert tree == [f"    {root}/{line}" for line in LAYOUT.splitlines()]
    there = {"all/refs.p": "instances.json", "all/instances.json": "refs.p", "pictures": "all, moved"}[missing]
    assert last == f"In {(root / missing).parent} there is: {there}. The data come from the moon"


def test_the_first_refs_file_that_is_there_is_read(root: Path) -> None:
    refs = root / "all" / "refs.json"
    refs.write_text("[]")
    assert label_files(DATA, root)[0].name == "refs.p"
    (root / "all" / "refs.p").unlink()
    assert label_files(DATA, root) == (refs, root / "all" / "instances.json")
    assert parsed(*label_files(DATA, root)).refs == []


def test_files_are_parsed_once_until_one_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parses = []
    real = refer_labels.parse_labels
    monkeypatch.setattr(refer_labels, "parse_labels", lambda *paths: parses.append(paths) or real(*paths))
    first = parsed(*files(root))
    assert parsed(*files(root)) is first and len(parses) == 1
    for path in files(root):
        os.utime(path, ns=(1, 1))
        again = parsed(*files(root))
        assert again is not first and parsed(*files(root)) is again
    assert len(parses) == 3
    assert len([key for key in refer_labels._PARSED if key[0][0] == str(files(root)[0])]) == 1  # not the old ones too
    for other in ("a", "b", "c"):
        parsed(*files(write_set(root / other, "all/refs.p", "pictures", [], [])))
    assert len(refer_labels._PARSED) == refer_labels.KEPT


def test_what_is_never_used_is_not_kept(root: Path) -> None:
    labels = parsed(*files(root))
    assert list(labels.annotations) == [1] and list(labels.images) == [1, 2]
    assert "tokens" not in labels.refs[0]["sentences"][0]


def test_ids_that_stand_twice_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = files(root)[1]
    instances = json.loads(file.read_text())
    instances["annotations"] += [annotation(1, image=2), annotation(2), "no object", {"id": [1]}]
    file.write_text(json.dumps(instances))
    assert parsed(*files(root)).annotations[1]["image_id"] == 2
    assert "1 ids stand twice in annotations, the first 1; the last counts" in caplog.text


def test_files_that_hold_something_else_are_named(root: Path) -> None:
    refs, instances = files(root)
    refs.write_bytes(pickle.dumps({"refs": []}))
    with pytest.raises(UserError, match=r"refs\.p: holds a dict, expected a list of refs"):
        parsed(refs, instances)
    refs.write_bytes(pickle.dumps([]))
    for text in ("[]", '{"images": []}', '{"images": [], "annotations": {}}'):
        instances.write_text(text)
        with pytest.raises(UserError, match=r"instances\.json: no list '(images|annotations)' in it; COCO's layout"):
            parsed(refs, instances)
