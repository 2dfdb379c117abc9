"""Pictures whose names are spelled otherwise than their records say."""

from __future__ import annotations

import os
from pathlib import Path

from utils.datasets.base import BadRecord
from utils.runtime.text import PICTURE_ENDINGS, NameIndex, lone_surrogate, same_name


class PictureFinder:
    """Finds pictures whose names are spelled otherwise than their records say: upper-case endings, `.jpeg`, another
    Unicode form (as Macs write names), bytes that are no UTF-8. A name that is there as it stands comes first."""

    def __init__(self) -> None:
        self.folders: dict[Path, NameIndex[Path]] = {}
        self.otherwise: dict[Path, Path] = {}  # what was looked for -> what was found
        self.owners: dict[Path, Path] = {}  # and the other way round

    def find(self, where: str, path: Path) -> Path:
        """The picture that is meant by `path`; that itself where there is none.

        Raises:
            BadRecord: several may be meant, or one by several records of different names.
        """
        if path in self.otherwise or os.path.lexists(path):
            return self.otherwise.get(path, path)
        if path.parent not in self.folders:
            self.folders[path.parent] = index_pictures(path.parent)
        found = self.folders[path.parent].find(path.name.removesuffix(".jpg"))
        if len(found) > 1:
            listed = ", ".join(sorted(ascii(one.name) for one in found))
            raise BadRecord(
                f"{where}: its picture {path} is not there as it is spelled, and several are meant by it: {listed}"
            )
        if not found:
            return path
        if not same_name(self.owners.setdefault(found[0], path).name, path.name):
            raise BadRecord(
                f"{where}: {found[0].name!a} would be its picture and that of {self.owners[found[0]].name!a}; rename it"
            )
        self.otherwise[path] = found[0]
        return found[0]


def index_pictures(folder: Path) -> NameIndex[Path]:
    """The JPEGs of a folder by name; none of a folder that cannot be listed, whose pictures then tell why."""
    index: NameIndex[Path] = NameIndex()
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return index
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() in PICTURE_ENDINGS:
            index.add(stem, folder / name, os.fsencode(stem) if lone_surrogate(stem) else None)
    return index
