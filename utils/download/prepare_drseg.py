"""Lay the published archive of DRSeg out as the code expects it.

    python -m utils.download.prepare_drseg data/DRSeg.zip --out data/DRSeg

Wherever its folders sit inside the archive, the result is `labels/DRSeg_{train,val,test}.json` and
`CODrone/DR{train,val,test}/{id}.jpg`. The archive's size and checksum, the number of records, and
that every record has its picture, are checked; the folder appears only when all of it is there.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import stat
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath

from utils.download.sources import DRSEG, DRSEG_RECORDS
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import atomic_folder, file_hash
from utils.runtime.progress import byte_bar

logger = logging.getLogger(__name__)

SPLITS = tuple(DRSEG_RECORDS)
CHUNK = 1 << 20
PICTURE_ENDINGS = (".jpg", ".jpeg")
# What reading an archive raises that is damaged, cut short, encrypted or packed in an unknown way.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def check_archive(archive: Path) -> None:
    """Hold the archive against the size and checksum of the published one.

    Raises:
        UserError: it is another one.
    """
    published = DRSEG.files[0]
    size = archive.stat().st_size
    cure = "fetch it again (`python -m utils.download --what drseg`), or accept this one with --no-checksum"
    if size != published.size:
        raise UserError(f"{archive}: expected {published.size:,} bytes, got {size:,}; {cure}")
    got = file_hash(archive, label=f"checking {archive.name}")
    if got != published.sha256:
        raise UserError(f"{archive}: expected sha256 {published.sha256}, got {got}; {cure}")


def _path(info: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(info.filename.replace("\\", "/"))


def members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The archive's files, what some systems add to every archive left out.

    Raises:
        UserError: a member's path leads out of the folder it is unpacked in, or is a link.
    """
    kept = []
    for info in archive.infolist():
        path = _path(info)
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", info.filename):
            raise UserError(f"{archive.filename}: member {info.filename!r} leads out of the target folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{archive.filename}: member {info.filename!r} is a symbolic link")
        if not info.is_dir() and "__MACOSX" not in path.parts and not path.name.startswith("."):
            kept.append(info)
    return kept


def split_of(path: PurePosixPath) -> str | None:
    """The one split that a path names: by its file's name, else by the nearest folder that names one."""
    for part in (path.stem, *reversed(path.parent.parts)):
        named = {split for split in SPLITS if split in part.lower()}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def find_labels(archive: zipfile.ZipFile, files: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The label file of each split.

    Raises:
        UserError: a split has none, or several and none of them has the published name.
    """
    found: dict[str, list[zipfile.ZipInfo]] = defaultdict(list)
    for info in files:
        path = _path(info)
        split = split_of(path)
        if path.suffix.lower() == ".json" and split:
            found[split].append(info)
    labels = {}
    for split in SPLITS:
        named = [info for info in found[split] if _path(info).name == f"DRSeg_{split}.json"]
        choice = named or found[split]
        if len(choice) != 1:
            which = ", ".join(info.filename for info in choice) or "none"
            raise UserError(f"{archive.filename}: expected one label file (.json) of {split}, got {which}")
        labels[split] = choice[0]
    return labels


def read_ids(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> list[str]:
    """The ids of the records in a label file.

    Raises:
        UserError: it is no list of records, or an id is missing, stands twice or is no file name.
    """
    where = f"{archive.filename}: {info.filename}"
    try:
        records = json.loads(archive.read(info))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) and "id" in record for record in records):
        raise UserError(f"{where}: not a list of records with an id")
    ids = [str(record["id"]) for record in records]
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise UserError(f"{where}: the id {name!r} stands twice")
        if not name or name.startswith(".") or re.search(r"[/\\:\0]", name):
            raise UserError(f"{where}: the id {name!r} cannot be the name of a picture")
        seen.add(name)
    return ids


def find_pictures(
    archive: zipfile.ZipFile, files: list[zipfile.ZipInfo], ids: dict[str, list[str]]
) -> dict[str, zipfile.ZipInfo]:
    """The picture of every record: where it goes, and the member that it is.

    Raises:
        UserError: a record has none, or several that its split does not tell apart.
    """
    by_name: dict[str, list[zipfile.ZipInfo]] = defaultdict(list)
    for info in files:
        path = _path(info)
        if path.suffix.lower() in PICTURE_ENDINGS:
            by_name[path.stem].append(info)
    pictures, missing = {}, []
    for split, names in ids.items():
        for name in names:
            choice = by_name[name]
            if len(choice) > 1:
                # The name itself may hold the word "test", so that only the folders are asked.
                choice = [info for info in choice if split_of(_path(info).parent / "_") == split]
                if len(choice) != 1:
                    several = ", ".join(info.filename for info in by_name[name])
                    raise UserError(f"{archive.filename}: record {name!r} of {split} has several pictures: {several}")
            if choice:
                pictures[f"CODrone/DR{split}/{name}.jpg"] = choice[0]
            else:
                missing.append(f"{split} {name}")
    if missing:
        first = ", ".join(missing[:5])
        raise UserError(f"{archive.filename}: {len(missing)} records have no picture (.jpg), the first are {first}")
    unused = sum(map(len, by_name.values())) - len(pictures)
    if unused:
        logger.info("%d pictures belong to no record and are left out", unused)
    return pictures


def check_counts(counts: dict[str, int], strict: bool) -> None:
    """Compare the numbers of records with the published ones; a difference is a warning unless `strict`.

    Raises:
        UserError: they differ, and `strict`.
    """
    if counts == DRSEG_RECORDS:
        return
    got, expected = (" / ".join(f"{each[split]:,}" for split in SPLITS) for each in (counts, DRSEG_RECORDS))
    message = f"{got} records in {' / '.join(SPLITS)}, published are {expected}"
    if strict:
        raise UserError(f"{message}; accept this archive with --no-checksum")
    logger.warning("%s", message)


def unpack(archive: zipfile.ZipFile, plan: dict[str, zipfile.ZipInfo], folder: Path) -> None:
    """Write the members of `plan` to their places in `folder`; checksums are verified as they are read."""
    total = sum(info.file_size for info in plan.values())
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(f"{folder}: {total / 1e9:.2f} GB are to be unpacked, {free / 1e9:.2f} GB are free; make room")
    with byte_bar(total, "unpacking") as bar:
        for name, info in plan.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as file:
                while chunk := source.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))


def prepare(archive: Path, out: Path, overwrite: bool = False, checksum: bool = True) -> dict[str, int]:
    """Lay `archive` out as the folder `out`.

    Args:
        archive: DRSeg.zip.
        out: the data folder to make, e.g. data/DRSeg.
        overwrite: whether a folder that is there already is replaced, with everything in it.
        checksum: whether size, checksum and numbers of records must be the published ones.

    Returns:
        The number of records of each split.

    Raises:
        UserError: the archive is missing, damaged or another one, or `out` is there.
    """
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; `python -m utils.download --what drseg` puts DRSeg.zip into data/")
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there already; --overwrite replaces it with everything in it")
    if checksum:
        check_archive(archive)
    else:
        logger.warning("%s: not compared with the published archive (--no-checksum)", archive)
    try:
        with atomic_folder(out) as part, zipfile.ZipFile(archive) as opened:
            files = members(opened)
            labels = find_labels(opened, files)
            ids = {split: read_ids(opened, info) for split, info in labels.items()}
            counts = {split: len(names) for split, names in ids.items()}
            check_counts(counts, strict=checksum)
            plan = {f"labels/DRSeg_{split}.json": info for split, info in labels.items()}
            unpack(opened, plan | find_pictures(opened, files, ids), part)
    except _UNREADABLE as error:
        raise UserError(f"{archive}: cannot be read ({error}); fetch it again, it may be cut short") from error
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error})") from error
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m utils.download.prepare_drseg",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path, help="DRSeg.zip")
    parser.add_argument("--out", type=Path, default=Path("data/DRSeg"), help="the folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is there already")
    parser.add_argument("--no-checksum", action="store_true", help="accept another archive than the published one")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counts = prepare(args.archive, args.out, args.overwrite, checksum=not args.no_checksum)
    logger.info("%s: %s", args.out, ", ".join(f"{count:,} {split}" for split, count in counts.items()))


if __name__ == "__main__":
    run_main(main)
