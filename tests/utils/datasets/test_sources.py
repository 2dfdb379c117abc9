"""utils.datasets.sources: what is trained on and validated together."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.datasets.sources import Source, read_roots, read_sources
from utils.runtime.errors import UserError


def test_roots_are_read_from_the_command_line_and_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "roots.yaml"
    file.write_text("drseg: data/DRSeg\nroofs: {dataset: drseg, root: data/roofs}\n")
    found = {"drseg": ("drseg", Path("data/DRSeg")), "roofs": ("drseg", Path("data/roofs"))}
    assert read_roots(str(file)) == read_roots("drseg=data/DRSeg, roofs=drseg:data/roofs") == found
    assert read_roots("drseg=C:/data") == {"drseg": ("drseg", Path("C:/data"))}  # no format is called C


def test_sources_have_split_and_share() -> None:
    data = "drseg=data/DRSeg,roofs=drseg:data/roofs"
    assert read_sources("--train", "drseg:4, roofs@val:0.5", data, "train") == [
        Source("drseg", "drseg", Path("data/DRSeg"), "train", 4.0),
        Source("roofs", "drseg", Path("data/roofs"), "val", 0.5),
    ]
    assert [source.share for source in read_sources("--train", "drseg,drseg@val:3", data, "train")] == [1, 3]


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("drseg", "data/DRSeg", "'data/DRSeg' is not NAME=FOLDER; a mixture needs the folder of each data set"),
        ("drseg", "drseg=a,drseg=b", "drseg is named twice"),
        ("drseg", "roofs=data/roofs", r"'roofs' is no data set; known are drseg.*roofs=FORMAT:FOLDER"),
        ("walls:2", "drseg=a", "--train walls:2: no folder for 'walls'; --data names drseg"),
        ("drseg:0", "drseg=a", "--train drseg:0: the share of drseg is '0'; expected a number above 0"),
        ("drseg:nan", "drseg=a", "the share of drseg is 'nan'"),
        ("drseg:inf", "drseg=a", "the share of drseg is 'inf'"),
        ("drseg:much", "drseg=a", "the share of drseg is 'much'"),
        ("drseg:1,drseg:2", "drseg=a", "drseg is named twice with the split train"),
        ("drseg", "gone.yaml", "gone.yaml: no such file; it would map names of data sets to folders"),
    ],
)
def test_what_is_no_mixture_is_told(text: str, data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sources("--train", text, data, "train")


@pytest.mark.parametrize("content", ["- a\n- b\n", "drseg: [1]\n", "drseg: {root: a}\n", "3: a\n", ": : :\n", ""])
def test_an_odd_file_of_roots_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "roots.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match="roots.yaml"):
        read_roots(str(file))


@pytest.mark.parametrize("content", ["roofs: {dataset: [coco], root: x}\n", "drseg: 2001-13-45\n", "roofs: 0x_\n"])
def test_values_that_yaml_reads_as_something_else_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "roots.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"roots\.yaml"):
        read_roots(str(file))
