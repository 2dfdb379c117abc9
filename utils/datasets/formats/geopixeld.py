"""GeoPixelD: descriptions of aerial photographs whose phrases are marked.

    ROOT/train/P0224_0_800_0_800.png, ROOT/train/P0224_0_800_0_800.json, …      (ROOT/GeoPixelD/train/… too)
    ROOT/test/…

Pictures are not part of the data set: iSAID's training (train) and validation (test) pictures, which are those of
DOTA-v1.0, cut into patches of 800x800 by iSAID_Devkit; patches without a .json are not used. A .json holds
`{id, img, gcg_description, polygons}`; `gcg_description` has `<p> phrase </p> [SEG]` for each mask, and `polygons[i]`,
in their order, is a list of polygons `[[x, y], …]` in pixels of the patch. (mbzuai-oryx/GeoPixel@356b56a,
docs/dataset.md; the conversations of GeoPixelD.json hold the same descriptions and are not read.)
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from model.masks import Polygon
from utils.datasets.base import CLEAN, GROUNDED, BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import checked_polygon, shortened
from utils.datasets.descriptions import (
    INSTRUCTION,
    KINDS,
    PHRASE_KINDS,
    SEG,
    marked_phrases,
    plain_text,
)
from utils.datasets.layout import check_split_name, folder_or_inner, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries

NAME = "geopixeld"
SPLITS = ("train", "test")
LAYOUT = "{split}/P0224_0_800_0_800.png\n{split}/P0224_0_800_0_800.json"
SOURCE = "https://huggingface.co/datasets/MBZUAI/GeoPixelD (labels); pictures: iSAID, cut by its devkit"


def load_geopixeld(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """A sample for each patch that has a description, by name.

    Args:
        root: the folder that holds `train` and `test`, or the one that holds `GeoPixelD`.
        split: "train" or "test".
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, or its folder or its labels are missing.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    check_split_name(NAME, split, SPLITS)
    folder = folder_or_inner(root, "GeoPixelD") / split
    files = [path for path in entries(folder) if path.suffix == ".json"]
    if not files:
        raise missing_part(root, folder / "*.json", LAYOUT.format(split=split), SOURCE)
    reader = SplitReader(folder, reading, skipped)
    shared: dict[float, float] = {}  # coordinates: 600,000 polygons have few different ones
    for file in files:
        with reader.record():
            reader.samples.append(_sample(reader, folder, file, shared))
    return reader.finish()


def _sample(reader: SplitReader, folder: Path, file: Path, shared: dict[float, float]) -> Sample:
    where = f"{folder}: {file.name}"
    try:
        record = read_json(file, strict=False)
    except UserError as error:
        raise BadRecord(str(error)) from error
    description, groups = _fields(where, record)
    photograph = reader.photograph(where, folder / f"{file.stem}.png", None)
    size = reader.size(photograph)
    targets = tuple(_target(f"{where}, [SEG] {i}", group, size, shared) for i, group in enumerate(groups))
    return Sample(
        image_path=photograph.path,
        question=INSTRUCTION,
        answer=plain_text(description),
        targets=targets,
        height=size[0],
        width=size[1],
        dataset=NAME,
        record_id=file.stem,
        index=len(reader.samples),
        groups={PHRASE_KINDS: tuple(KINDS[len(target) > 1] for target in targets)},
        source=where,
        key=file.stem,
        picture_size=photograph.picture_size,
        upright=photograph.upright,
        phrases=tuple(marked_phrases(description)),
    )


def _fields(where: str, record: Any) -> tuple[str, list[Any]]:
    """Description and polygons of a record, as many as it has phrases."""
    if not isinstance(record, dict):
        raise BadRecord(f"{where} holds a {type(record).__name__}, expected an object")
    description, groups = record.get("gcg_description"), record.get("polygons")
    if not isinstance(description, str) or not plain_text(description):
        raise BadRecord(f"{where}: gcg_description is {shortened(description)}, expected a text")
    if not isinstance(groups, list):
        raise BadRecord(f"{where}: polygons is {shortened(groups)}, expected a list of polygons for each [SEG]")
    phrases, marks = len(marked_phrases(description)), description.count(SEG)
    if phrases != marks or marks != len(groups) or not groups:
        raise BadRecord(
            f"{where}: its description has {marks} [SEG], {phrases} of them behind a <p> phrase </p>, and there are "
            f"{len(groups)} masks; expected is as many of each, and at least one"
        )
    return description, groups


def _target(where: str, group: Any, size: tuple[int, int], shared: dict[float, float]) -> tuple[Polygon, ...]:
    if not isinstance(group, list) or not group:
        raise BadRecord(f"{where}: its polygons are {shortened(group)}, expected a list of polygons")
    polygons = []
    for i, points in enumerate(group):
        one = f"{where}, polygon {i}"
        if not isinstance(points, list) or set(map(type, points)) != {list} or set(map(len, points)) != {2}:
            raise BadRecord(f"{one} is {shortened(points)}, expected points [[x, y], …]")
        polygon = checked_polygon(one, list(chain.from_iterable(points)), size)
        polygons.append(tuple(map(shared.setdefault, polygon, polygon)))
    return tuple(polygons)


SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_geopixeld,
    rules={
        CLEAN: ScoringRules(
            matching="hungarian",
            note="phrases of one polygon are uni-target, of several multi-target: no evaluation code was published",
        )
    },
    task=GROUNDED,
)
