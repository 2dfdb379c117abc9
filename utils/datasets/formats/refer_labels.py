"""The files of the REFER family: refs with their sentences, and objects in COCO's layout.

A refs file is a list of `{ref_id, ann_id, image_id, split, sentences: [{sent_id, sent, …}]}`, as a pickle (of Python 2
in the oldest sets; plain values alone are read) or as JSON. `instances.json` holds `images`, `annotations` and
`categories`. A ref's own `file_name` is not that of a picture: the one of `images` is.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.datasets.layout import folder_or_inner, missing_part
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file, is_folder
from utils.runtime.pickle_files import read_plain_pickle

log = logging.getLogger(__name__)

KEPT = 2  # sets whose labels stay in memory, so that a second split is not parsed again
LETTERED = ("testA", "testB", "testC")


@dataclass(frozen=True)
class ReferSet:
    """Where a data set of the family lies, and what is known of it.

    Args:
        name: in the registry.
        refs: the refs file, relative to the root; the first of several that is there.
        instances: the file of pictures and objects, likewise.
        pictures: the folder of the pictures, likewise.
        splits: as published.
        layout: its files, for errors.
        source: where it comes from, in one line.
        sentences: how many a split is said to have; a full set that has another number is told, not refused.
        lettered: refs of "testAB" belong to "testA", "testB" and "test", as lichengunc/refer reads them.
    """

    name: str
    refs: tuple[str, ...]
    instances: str
    pictures: str
    splits: tuple[str, ...]
    layout: str
    source: str
    sentences: Mapping[str, int] = field(default_factory=dict)
    lettered: bool = True

    @property
    def folder(self) -> str:
        """Of the labels, relative to the root."""
        return self.instances.partition("/")[0]


@dataclass(frozen=True)
class Labels:
    """A refs file and its instances.json, parsed: the refs, and by id what they name."""

    refs: list[Any]
    images: dict[int | str, Any]
    annotations: dict[int | str, Any]
    categories: dict[int | str, Any]


def label_files(data: ReferSet, root: Path) -> tuple[Path, Path]:
    """The refs file and instances.json.

    Args:
        data: which data set.
        root: the folder that `data.layout` stands in, or the one of the labels in it.

    Raises:
        UserError: one is missing, or the folder of pictures is.
    """
    labels = folder_or_inner(root, data.folder)
    refs = [labels / name.removeprefix(f"{data.folder}/") for name in data.refs]
    file = next(filter(is_file, refs), refs[0])
    instances = labels / data.instances.removeprefix(f"{data.folder}/")
    for path, there in ((file, is_file), (instances, is_file), (picture_folder(data, root), is_folder)):
        if not there(path):
            raise missing_part(root, path, data.layout, data.source)
    return file, instances


def picture_folder(data: ReferSet, root: Path) -> Path:
    """Of the pictures: in `root`, or beside it where that is the folder of the labels; that in `root` without any."""
    beside = [root / ".." / data.pictures] if folder_or_inner(root, data.folder) == root else []
    return next(filter(is_folder, (root / data.pictures, *beside)), root / data.pictures)


# -- parsing ---------------------------------------------------------------------------------------
_PARSED: OrderedDict[tuple[Any, ...], Labels] = OrderedDict()


def parsed(refs_file: Path, instances_file: Path) -> Labels:
    """Both files, parsed once a process while neither changes.

    Raises:
        UserError: one may not be read, or holds something else.
    """
    stats = [(str(path.absolute()), path.stat()) for path in (refs_file, instances_file)]
    key = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
    if key not in _PARSED:
        with collector_paused():
            labels = parse_labels(refs_file, instances_file)
        for old in [one for one in _PARSED if [part[0] for part in one] == [part[0] for part in key]]:
            del _PARSED[old]
        while len(_PARSED) >= KEPT:
            _PARSED.popitem(last=False)
        _PARSED[key] = labels
    _PARSED.move_to_end(key)
    return _PARSED[key]


def parse_labels(refs_file: Path, instances_file: Path) -> Labels:
    """Of what is never used nothing stays: tokens, and objects that no ref names.

    Raises:
        UserError: a file may not be read, or holds something else.
    """
    # What is odd in a record is that record's fault, so that JSON is not read strictly. The larger file comes first,
    # while there is nothing else in memory.
    instances = read_json(instances_file, strict=False)
    refs = read_json(refs_file, strict=False) if refs_file.suffix == ".json" else read_plain_pickle(refs_file)
    if not isinstance(refs, list):
        raise UserError(f"{refs_file}: holds a {type(refs).__name__}, expected a list of refs")
    named: set[int | str] = set()
    for ref in refs:
        for sentence in sentences_of(ref):
            if isinstance(sentence, dict):
                sentence.pop("tokens", None)
        named.update(ids_of(ref))
    tables = []
    for name in ("images", "annotations", "categories"):
        records = instances.get(name) if isinstance(instances, dict) else None
        if not isinstance(records, list):
            raise UserError(f"{instances_file}: no list {name!r} in it; COCO's layout is expected")
        tables.append(by_id(instances_file, name, records, named if name == "annotations" else None))
    return Labels(refs, *tables)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without Python's search for circles, of which labels have none: it takes as long as the parsing itself."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def by_id(file: Path, name: str, records: list[Any], named: set[int | str] | None) -> dict[int | str, Any]:
    """Records by their id, those alone that are `named`; an id that stands twice is told."""
    found: dict[int | str, Any] = {}
    twice = []
    for record in records:
        key = record.get("id") if isinstance(record, dict) else None
        if type(key) not in (int, str) or (named is not None and key not in named):
            continue
        if key in found:
            twice.append(key)
        found[key] = record
    if twice:
        log.warning("%s: %d ids stand twice in %s, the first %r; the last counts", file, len(twice), name, twice[0])
    return found


def ids_of(ref: Any) -> list[int | str]:
    """The annotations that a ref names, as far as they are ids; -1 is none."""
    named = ref.get("ann_id") if isinstance(ref, dict) else None
    return [one for one in (named if isinstance(named, list) else [named]) if type(one) in (int, str) and one != -1]


def sentences_of(ref: Any) -> list[Any]:
    """A ref's sentences, none where it has no list of them."""
    found = ref.get("sentences") if isinstance(ref, dict) else None
    return found if isinstance(found, list) else []


def sentence_keys(refs: list[Any]) -> list[list[str]]:
    """`Sample.key` of each ref's sentences: the sentence's id, numbered in file order where it stands several times."""
    names = [[str(s.get("sent_id")) if isinstance(s, dict) else "" for s in sentences_of(ref)] for ref in refs]
    under = Counter(name for of_ref in names for name in of_ref)
    if len(under) == sum(map(len, names)):
        return names
    met: Counter[str] = Counter()
    keys: list[list[str]] = []
    for of_ref in names:
        keys.append([])
        for name in of_ref:
            keys[-1].append(name if under[name] == 1 else f"{name}#{met[name]}")
            met[name] += 1
    return keys


def belongs(ref: Any, split: str, lettered: bool) -> bool:
    """Whether a ref belongs to a split; one that does not say of which it is belongs to all, and is bad in each."""
    name = ref.get("split") if isinstance(ref, dict) else None
    if not isinstance(name, str):
        return True
    if lettered and split in LETTERED:
        return split[-1] in name
    return split in name if lettered and split == "test" else name == split
