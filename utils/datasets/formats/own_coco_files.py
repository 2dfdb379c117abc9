"""Where one's own COCO files lie: a file a split, as several tools write them, or one file for everything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.datasets.base import BadRecord
from utils.datasets.checks import shortened
from utils.datasets.drawn_splits import ALL, DRAWN, SPLITS_FILE, base_name, spellings
from utils.datasets.labelled import OPTIONS_FILE
from utils.datasets.layout import NotThere, missing_part
from utils.runtime.errors import UserError
from utils.runtime.paths import entries, is_file, is_folder

ROBOFLOW_FILE = "_annotations.coco.json"
PREFIX = "instances_"  # of COCO's own files and CVAT's
NOT_LABELS = (SPLITS_FILE, OPTIONS_FILE)


@dataclass(frozen=True)
class LabelFile:
    """A COCO file and the part of it that is read.

    Args:
        path: of the file.
        split: it is; None where nothing says so and splits are drawn from it.
    """

    path: Path
    split: str | None


def label_files(root: Path, split: str, layout: str, source: str) -> list[LabelFile]:
    """The files of a split; the one file from which it is drawn has no split of its own.

    Raises:
        UserError: there is none, naming the splits that there are.
    """
    found = files_by_split(root)
    if split == ALL and found:
        return [LabelFile(path, name) for name, path in found.items()]
    for name in spellings(split):
        if name in found:
            return [LabelFile(found[name], split)]
    if len(found) == 1 and not published_splits(found):
        return [LabelFile(next(iter(found.values())), None)]
    if not found:
        raise missing_part(root, root / f"{split}.json", layout, source)
    raise NotThere(
        f"{root}: no split {split!r}; there are {', '.join(found)}, and {ALL} is all of them. Where one file is to be "
        f"divided into {', '.join(DRAWN)}, let it be the only one and call it instances.json"
    )


def published_splits(found: dict[str, Path]) -> bool:
    """Whether a file is called as one of the usual splits, so that it is not to be divided."""
    return any(name in found for split in DRAWN for name in spellings(split))


def files_by_split(root: Path) -> dict[str, Path]:
    """The label files below a folder by the name of their split.

    Raises:
        UserError: two are of one split, whichever way they write it.
    """
    paths: list[tuple[str, Path]] = []
    for folder in (root, root / "annotations"):
        for path in entries(folder):
            if path.suffix.lower() == ".json" and path.name not in (*NOT_LABELS, ROBOFLOW_FILE) and is_file(path):
                paths.append((path.stem.removeprefix(PREFIX), path))
    for folder in entries(root):
        if is_folder(folder) and is_file(folder / ROBOFLOW_FILE):
            paths.append((folder.name, folder / ROBOFLOW_FILE))
    if is_file(root / ROBOFLOW_FILE):
        paths.append((root.name, root / ROBOFLOW_FILE))
    first: dict[str, Path] = {}
    for name, path in paths:
        split = next((one for one in DRAWN if name in spellings(one)), name)
        other = first.setdefault(split, path)
        if other is not path:
            raise UserError(
                f"{root}: {other} and {path} are both of the split {split!r}; leave one, move the other away"
            )
    return dict(paths)


def picture_folders(root: Path, file: Path) -> list[Path]:
    """Where the pictures of a label file may lie, the likeliest first; only folders that are there."""
    stem = file.stem.removeprefix(PREFIX)
    beside = [file.parent] if file.name == ROBOFLOW_FILE else []
    there = [*beside, root / "images" / stem, root / "images", root / stem, root]
    return [folder for folder in dict.fromkeys(there) if is_folder(folder)]


def find_picture(where: str, name: object, folders: Sequence[Path]) -> Path:
    """The picture that a label file calls `name`; the likeliest place where it is in none.

    Paths of the machine that the labels were made on are cut to the file's name.

    Raises:
        BadRecord: it is no name.
    """
    if not isinstance(name, str) or not base_name(name) or "\0" in name:
        raise BadRecord(f"{where}: file_name is {shortened(name)}, expected a text")
    relative = name.replace("\\", "/")
    outside = relative.startswith("/") or relative[1:2] == ":" or ".." in relative.split("/")
    tried = [] if outside else [relative]
    tried += [base_name(name)]
    for one in tried:
        for folder in folders:
            if os.path.lexists(folder / one):
                return folder / one
    return folders[0] / tried[0]
