"""Data sets that are trained on or validated together: their names, folders, splits and shares.

A mixture is written `NAME:SHARE,NAME:SHARE`, such as `drseg:4,refcoco:2,muse:1`; a split other than the usual one
follows the name, `refcoco@testA`. Where the folders are is told by `NAME=FOLDER,NAME=FOLDER`, or by a YAML file:

    drseg: data/DRSeg
    refcoco: data/refer_seg
    roofs: {dataset: coco, root: data/roofs}

A name that is no data set's own, such as `roofs`, is that of a folder in the format of the data set that is named
with it; on the command line `roofs=coco:data/roofs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.registry import DATASETS, dataset_spec, load_dataset
from utils.runtime.errors import UserError
from utils.runtime.paths import is_file

YAML_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Source:
    """A split of a data set in a folder.

    Args:
        name: what messages and results call it.
        dataset: name of its format in the registry.
        root: its folder.
        split: of the data set.
        share: of the records of a mixture, relative to those of its other sources.
    """

    name: str
    dataset: str
    root: Path
    split: str
    share: float = 1.0

    @property
    def spec(self) -> DatasetSpec:
        """Of its data set."""
        return dataset_spec(self.dataset)

    def load(self, polygons: str, skip_bad_records: bool, orientation: str) -> list[Sample]:
        """Its samples; arguments and errors as of `load_dataset`."""
        return load_dataset(self.root, self.split, self.dataset, polygons, skip_bad_records, orientation)


@dataclass(frozen=True)
class LoadedSource:
    """A source and its samples that can be used."""

    source: Source
    samples: list[Sample]


def read_roots(data: str) -> dict[str, tuple[str, Path]]:
    """Format and folder of each name.

    Args:
        data: `NAME=FOLDER,…`, `NAME=FORMAT:FOLDER,…`, or a YAML file.

    Raises:
        UserError: it is neither, a name occurs twice, or a format is not known.
    """
    if data.endswith(YAML_ENDINGS):
        return {name: _root_of(f"{data}: {name}", name, value) for name, value in _yaml_mapping(Path(data)).items()}
    found: dict[str, tuple[str, Path]] = {}
    for part in data.split(","):
        name, sign, folder = part.strip().partition("=")
        if not (name and sign and folder):
            raise UserError(f"--data {data}: {part!r} is not NAME=FOLDER; a mixture needs the folder of each data set")
        if name in found:
            raise UserError(f"--data {data}: {name} is named twice")
        form, sign, rest = folder.partition(":")
        named = {"dataset": form, "root": rest} if sign and form in DATASETS else folder
        found[name] = _root_of(f"--data {data}: {name}", name, named)
    return found


def _yaml_mapping(file: Path) -> dict[str, Any]:
    if not is_file(file):
        raise UserError(f"{file}: no such file; it would map names of data sets to folders")
    try:
        values = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date or number that cannot be
        raise UserError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict) or not values or not all(isinstance(name, str) for name in values):
        raise UserError(f"{file}: expected lines NAME: FOLDER")
    return values


def _root_of(where: str, name: str, value: Any) -> tuple[str, Path]:
    """Format and folder; a folder alone is in the format that its name says."""
    if isinstance(value, str):
        value = {"dataset": name, "root": value}
    if (
        not isinstance(value, Mapping)
        or set(value) != {"dataset", "root"}
        or not all(isinstance(one, str) for one in value.values())
    ):
        raise UserError(f"{where} is {value!r}; expected a folder, or {{dataset: FORMAT, root: FOLDER}}")
    if value["dataset"] not in DATASETS:
        raise UserError(
            f"{where}: {value['dataset']!r} is no data set; known are {', '.join(DATASETS)} (a folder of another name "
            f"needs its format: {name}=FORMAT:FOLDER)"
        )
    return value["dataset"], Path(value["root"])


def read_sources(option: str, text: str, data: str, split: str) -> list[Source]:
    """The sources that an option names.

    Args:
        option: `--train` or `--validate`, for messages.
        text: `NAME[@SPLIT][:SHARE],…`.
        data: the folders, as in `read_roots`.
        split: where the text names none.

    Raises:
        UserError: the text is no such list, or a name has no folder, a share is not above 0, or a name occurs twice.
    """
    roots, sources = read_roots(data), []
    for part in text.split(","):
        named, _, share = part.strip().partition(":")
        name, _, own_split = named.partition("@")
        if name not in roots:
            raise UserError(f"{option} {text}: no folder for {name!r}; --data names {', '.join(roots)}")
        try:
            weight = float(share or 1)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise UserError(f"{option} {text}: the share of {name} is {share!r}; expected a number above 0")
        dataset, root = roots[name]
        sources.append(Source(name, dataset, root, own_split or split, weight))
    names = [(source.name, source.split) for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{option} {text}: {twice[0]} is named twice with the split {twice[1]}")
    return sources
