"""Fetch the published weights and data at their pinned revisions, checked; DRSeg is laid out too.

    python -m utils.download                                 everything (32 GB)
    python -m utils.download --what clip sam2 llava drseg    what training starts from
    python -m utils.download --what drseg                    the data set alone, laid out in data/DRSeg

An interrupted download resumes when the same command is run again.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
from pathlib import Path

from utils.download.fetch import fetch
from utils.download.prepare_drseg import log_counts, prepare
from utils.download.sources import COLLECTIONS, DRSEG, DRSEG_FOLDER, HUB, Collection
from utils.runtime.errors import UserError
from utils.runtime.files import CHECKOUT, make_output_folder
from utils.runtime.paths import has_content

logger = logging.getLogger(__name__)

GROUPS = {
    "all": tuple(COLLECTIONS),
    "weights": tuple(name for name, each in COLLECTIONS.items() if not each.is_dataset),
    "data": tuple(name for name, each in COLLECTIONS.items() if each.is_dataset),
}


def download(names: list[str], root: Path, endpoint: str = HUB) -> None:
    """Fetch the named collections into their folders under `root`; DRSeg is laid out in data/DRSeg.

    A data/DRSeg that has content is left as it is, and its archive is not fetched.

    Raises:
        UserError: a file cannot be fetched or differs from the pinned one, or the disk is too full.
    """
    drseg = root / DRSEG_FOLDER
    if DRSEG.name in names and has_content(drseg):
        logger.info("%s: there already, left as it is; to fetch it again, move it away and rerun this", drseg)
        names = [name for name in names if name != DRSEG.name]
    if not names:
        return
    chosen = [COLLECTIONS[name] for name in names]
    missing = sum(_missing_bytes(collection, root / collection.folder) for collection in chosen)
    make_output_folder(root)
    free = shutil.disk_usage(root).free
    logger.info("%s: %.1f GB to fetch into %s", ", ".join(names), missing / 1e9, root)
    if missing > free:
        raise UserError(f"{root}: {missing / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free; make room")
    for collection in chosen:
        folder = root / collection.folder
        for file in collection.files:
            fetch(collection, file, folder, endpoint)
        _warn_of_other_total(collection, folder)
    if DRSEG.name in names:
        archive = root / DRSEG.folder / DRSEG.files[0].name
        log_counts(drseg, prepare(archive, drseg))
        logger.info("%s: laid out in %s; the archive is not needed any more", archive, drseg)


def _missing_bytes(collection: Collection, folder: Path) -> int:
    """Known bytes of a collection still to fetch into `folder`, less those of interrupted downloads."""
    missing = [file for file in collection.files if not (folder / file.name).exists()]
    size = sum(file.size or 0 for file in missing)
    if collection.total and any(file.size is None and not file.optional for file in missing):
        unsized = [folder / file.name for file in collection.files if file.size is None]
        size += max(0, collection.total - sum(path.stat().st_size for path in unsized if path.exists()))
    parts = [folder / (file.name + ".part") for file in missing]
    return max(0, size - sum(part.stat().st_size for part in parts if part.exists()))


def _warn_of_other_total(collection: Collection, folder: Path) -> None:
    """Log a warning where the shards of a collection are not together of the size that was reported."""
    shards = [folder / file.name for file in collection.files if file.name.endswith((".safetensors", ".bin"))]
    size = sum(path.stat().st_size for path in shards)
    if collection.total and size != collection.total:
        logger.warning("%s: the weights have %s bytes; %s were reported", folder, f"{size:,}", f"{collection.total:,}")


def collection_names(what: list[str]) -> list[str]:
    """The names of the collections that `--what` asks for, groups resolved, each once, in the order of the table.

    Raises:
        UserError: a word is neither a collection nor a group.
    """
    for word in what:
        if word not in GROUPS and word not in COLLECTIONS:
            raise UserError(f"--what {word!r} is unknown; use {', '.join([*GROUPS, *COLLECTIONS])}")
    wanted = {name for word in what for name in GROUPS.get(word, (word,))}
    return [name for name in COLLECTIONS if name in wanted]


def main() -> None:
    """Command line of this package."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", nargs="+", default=["all"], help=f"of {', '.join([*GROUPS, *COLLECTIONS])}")
    parser.add_argument("--out", type=Path, default=CHECKOUT, help="the folder that takes PixDLM/ and data/")
    parser.add_argument("--endpoint", default=os.environ.get("HF_ENDPOINT") or HUB, help="the hub or a mirror of it")
    args = parser.parse_args()
    if not re.match(r"https?://", args.endpoint):
        raise UserError(f"--endpoint {args.endpoint!r} is no web address; give one that begins with https://")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    download(collection_names(args.what), args.out, args.endpoint.rstrip("/"))
