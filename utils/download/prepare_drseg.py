"""Lay the published archive of DRSeg out as the code expects it.

    python -m utils.download.prepare_drseg data/DRSeg.zip --out data/DRSeg

`python -m utils.download --what drseg` does this after the download; run it yourself for an archive from elsewhere.
Wherever the folders are inside the archive, the result is `labels/DRSeg_{train,val,test}.json` and
`CODrone/DR{train,val,test}/{id}.jpg`. The archive's size and checksum, the number of records, and
that every record has its picture, are checked; the folder appears only when all of it is there.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import stat
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath

from utils.download.sources import DRSEG, DRSEG_FOLDER, DRSEG_RECORDS
from utils.runtime.errors import UserError, run_main
from utils.runtime.files import atomic_folder, file_hash
from utils.runtime.json_files import parse_json
from utils.runtime.paths import NAME_BYTES, has_content, is_file
from utils.runtime.progress import byte_bar
from utils.runtime.text import PICTURE_ENDINGS, NameIndex, lone_surrogate, same_name

logger = logging.getLogger(__name__)

SPLITS = tuple(DRSEG_RECORDS)
CHUNK = 1 << 20  # bytes
UTF8_NAME = 0x800  # of a member's flags: its name is UTF-8
_OTHER_ARCHIVE = "this is not DRSeg's archive as published: `python -m utils.download --what drseg` fetches that one"
# Raised where an archive is damaged, truncated, encrypted or compressed in an unknown way.
_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def check_archive(archive: Path) -> None:
    """Compare the archive with the size and checksum of the published one.

    Raises:
        UserError: they differ.
    """
    published = DRSEG.files[0]
    size = archive.stat().st_size
    cure = "fetch it again (`python -m utils.download --what drseg`), or accept this one with --no-checksum"
    if size != published.size:
        raise UserError(f"{archive}: expected {published.size:,} bytes, got {size:,}; {cure}")
    got = file_hash(archive, label=f"checking {archive.name}")
    if got != published.sha256:
        raise UserError(f"{archive}: expected sha256 {published.sha256}, got {got}; {cure}")


def _member_path(info: zipfile.ZipInfo) -> PurePosixPath:
    return _path_of(info.filename)


def _path_of(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _raw_stem(info: zipfile.ZipInfo) -> bytes | None:
    """The bytes of a member's name, without folder and ending, where the archive does not mark it as UTF-8."""
    if info.flag_bits & UTF8_NAME:
        return None
    # zipfile has read them as code page 437, which has a letter for each byte
    return _path_of(info.orig_filename).stem.encode("cp437")


def list_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The archive's files, without the hidden ones and `__MACOSX`, which some systems add to every archive.

    Raises:
        UserError: a member's path leads out of the folder it is unpacked in, or is a link.
    """
    kept = []
    for info in archive.infolist():
        path, where = _member_path(info), f"{archive.filename}: member {info.filename!r}"
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", info.filename):
            raise UserError(f"{where} leads out of the target folder; {_OTHER_ARCHIVE}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{where} is a symbolic link; {_OTHER_ARCHIVE}")
        if not info.is_dir() and "__MACOSX" not in path.parts and not path.name.startswith("."):
            kept.append(info)
    return kept


def find_split(path: PurePosixPath) -> str | None:
    """The split in a path: in its file's name, else in the nearest folder's that has one; None for none or several."""
    for part in (path.stem, *reversed(path.parent.parts)):
        splits = {split for split in SPLITS if split in part.lower()}
        if splits:
            return splits.pop() if len(splits) == 1 else None
    return None


def find_labels(archive: zipfile.ZipFile, files: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The label file of each split.

    Raises:
        UserError: a split has none, or several and none of them has the published name.
    """
    found: dict[str, list[zipfile.ZipInfo]] = defaultdict(list)
    for info in files:
        path = _member_path(info)
        split = find_split(path)
        if path.suffix.lower() == ".json" and split:
            found[split].append(info)
    labels = {}
    for split in SPLITS:
        published = [info for info in found[split] if _member_path(info).name == f"DRSeg_{split}.json"]
        candidates = published or found[split]
        if len(candidates) != 1:
            names = ", ".join(info.filename for info in candidates) or "none"
            message = f"{archive.filename}: expected one label file (.json) of {split}, got {names}"
            raise UserError(f"{message}; {_OTHER_ARCHIVE}")
        labels[split] = candidates[0]
    return labels


def read_ids(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> list[str]:
    """The ids of the records in a label file; records that share a picture have the same.

    Raises:
        UserError: it is no list of records, or an id is missing or is no file name.
    """
    where = f"{archive.filename}: {info.filename}"
    # as the loader reads it, which looks at all but the ids
    records = parse_json(archive.read(info), where, f"mend it; {_OTHER_ARCHIVE}", strict=False)
    if not isinstance(records, list) or not all(isinstance(record, dict) and "id" in record for record in records):
        raise UserError(f"{where}: not a list of records with an id")
    for number, record in enumerate(records):
        if type(record["id"]) not in (str, int):  # as the loader has it; isinstance would let true pass for 1
            raise UserError(f"{where}: record {number} has the id {record['id']!r:.60}, expected a text or a number")
    ids = [str(record["id"]) for record in records]
    for name in ids:
        too_long = len(f"{name}.jpg".encode(errors="replace")) > NAME_BYTES
        if not name or name.startswith(".") or re.search(r"[/\\:\0]", name) or too_long or lone_surrogate(name):
            raise UserError(f"{where}: the id {name!r} cannot be the name of a picture")
    return ids


def find_pictures(
    archive: zipfile.ZipFile, files: list[zipfile.ZipInfo], ids: dict[str, list[str]]
) -> dict[str, zipfile.ZipInfo]:
    """The member of the archive that is each record's picture, by its path in the laid-out folder.

    Names may be in another Unicode form or, where the archive does not mark them as UTF-8, in a code page.

    Raises:
        UserError: a record has no picture, or several in its split, or one may be that of several records.
    """
    by_name: NameIndex[zipfile.ZipInfo] = NameIndex()
    packed = [info for info in files if _member_path(info).suffix.lower() in PICTURE_ENDINGS]
    for info in packed:
        by_name.add(_member_path(info).stem, info, _raw_stem(info))
    pictures, missing = {}, []
    owners: dict[int, str] = {}  # by the member's place in the archive
    for split, names in ids.items():
        for name in dict.fromkeys(names):
            found = candidates = by_name.find(name)
            if len(candidates) > 1:
                # by the folders alone, since a picture's own name may hold the word "test"
                candidates = [info for info in candidates if find_split(_member_path(info).parent / "_") == split]
                if len(candidates) != 1:
                    several = ", ".join(info.filename for info in found)
                    raise UserError(f"{archive.filename}: record {name!r} of {split} has several pictures: {several}")
            if candidates:
                owner = owners.setdefault(candidates[0].header_offset, name)
                if not same_name(owner, name):
                    raise UserError(
                        f"{archive.filename}: the picture {candidates[0].filename!r} may be that of {owner!r} and of "
                        f"{name!r}, for its name is not marked as UTF-8; pack the archive with names in UTF-8"
                    )
                pictures[f"CODrone/DR{split}/{name}.jpg"] = candidates[0]
            else:
                missing.append(f"{split} {name}")
    if missing:
        first = ", ".join(missing[:5])
        message = f"{archive.filename}: {len(missing)} records have no picture (.jpg), the first are {first}"
        unread = [ascii(info.filename) for info in packed if not info.filename.isascii()]
        if unread and not all(one.isascii() for one in missing):
            message += f" (among the names in the archive is {unread[0]}, which is another in any known code page)"
        raise UserError(f"{message}; {_OTHER_ARCHIVE}")
    unused = len({info.header_offset for info in packed} - owners.keys())
    if unused:
        logger.info("%d pictures belong to no record and are skipped", unused)
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
    """Write the members of `plan` to their paths in `folder`; the archive's own checksums are verified.

    Raises:
        UserError: the disk is too small.
    """
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
        UserError: the archive is missing, damaged or another one, or `out` has content.
    """
    if not is_file(archive):
        raise UserError(f"{archive}: no such file; `python -m utils.download --what drseg` puts DRSeg.zip into data/")
    if has_content(out) and not overwrite:
        raise UserError(f"{out}: there already; --overwrite replaces it with everything in it")
    if checksum:
        check_archive(archive)
    else:
        logger.warning("%s: not compared with the published archive (--no-checksum)", archive)
    try:
        with atomic_folder(out) as part, zipfile.ZipFile(archive) as opened:
            files = list_members(opened)
            labels = find_labels(opened, files)
            ids = {split: read_ids(opened, info) for split, info in labels.items()}
            counts = {split: len(names) for split, names in ids.items()}
            check_counts(counts, strict=checksum)
            plan = {f"labels/DRSeg_{split}.json": info for split, info in labels.items()}
            unpack(opened, plan | find_pictures(opened, files, ids), part)
    except _ARCHIVE_ERRORS as error:
        raise UserError(f"{archive}: cannot be read ({error}); fetch it again, it may be truncated") from error
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error}); name another folder with --out") from error
    return counts


def log_counts(out: Path, counts: dict[str, int]) -> None:
    """Log the number of records of each split."""
    logger.info("%s: %s", out, ", ".join(f"{count:,} {split}" for split, count in counts.items()))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.download.prepare_drseg",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path, help="DRSeg.zip")
    parser.add_argument("--out", type=Path, default=Path(DRSEG_FOLDER), help="the folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is there already")
    parser.add_argument("--no-checksum", action="store_true", help="accept another archive than the published one")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log_counts(args.out, prepare(args.archive, args.out, args.overwrite, checksum=not args.no_checksum))


if __name__ == "__main__":
    run_main(main)
