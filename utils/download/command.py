"""Fetch the published weights and data at their pinned revisions, checked.

python -m utils.download                                everything (32 GB)
python -m utils.download --what clip sam2 llava drseg    what training starts from
python -m utils.download --what drseg                    the data set alone
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
from pathlib import Path

from utils.download.fetch import fetch
from utils.download.sources import COLLECTIONS, HUB, Collection
from utils.runtime.errors import UserError
from utils.runtime.files import CHECKOUT, make_output_folder

logger = logging.getLogger(__name__)

GROUPS = {
    "all": tuple(COLLECTIONS),
    "weights": tuple(name for name, each in COLLECTIONS.items() if not each.is_dataset),
    "data": tuple(name for name, each in COLLECTIONS.items() if each.is_dataset),
}


def _to_fetch(collection: Collection, folder: Path) -> int:
    """Bytes of a collection that are known to be lacking in `folder`; parts count as there."""
    lacking = [file for file in collection.files if not (folder / file.name).exists()]
    size = sum(file.size or 0 for file in lacking)
    if collection.total and any(file.size is None and not file.optional for file in lacking):
        unsized = [folder / file.name for file in collection.files if file.size is None]
        size += max(0, collection.total - sum(path.stat().st_size for path in unsized if path.exists()))
    parts = [folder / (file.name + ".part") for file in lacking]
    return max(0, size - sum(part.stat().st_size for part in parts if part.exists()))


def download(names: list[str], root: Path, endpoint: str = HUB) -> None:
    """Fetch the named collections into their folders under `root`.

    Raises:
        UserError: a file cannot be had or is not what it should be, or the disk is too small.
    """
    chosen = [COLLECTIONS[name] for name in names]
    needed = sum(_to_fetch(collection, root / collection.folder) for collection in chosen)
    make_output_folder(root)
    free = shutil.disk_usage(root).free
    logger.info("%s: %.1f GB to fetch into %s", ", ".join(names), needed / 1e9, root)
    if needed > free:
        raise UserError(f"{root}: {needed / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free; make room")
    for collection in chosen:
        folder = root / collection.folder
        for file in collection.files:
            fetch(collection, file, folder, endpoint)
        _compare_total(collection, folder)


def _compare_total(collection: Collection, folder: Path) -> None:
    shards = [folder / file.name for file in collection.files if file.name.endswith((".safetensors", ".bin"))]
    size = sum(path.stat().st_size for path in shards)
    if collection.total and size != collection.total:
        logger.warning("%s: the weights have %s bytes; %s were reported", folder, f"{size:,}", f"{collection.total:,}")


def chosen_names(what: list[str]) -> list[str]:
    """The collections that the words of `--what` stand for, each once, in the order of the table.

    Raises:
        UserError: a word is neither a collection nor a group.
    """
    for word in what:
        if word not in GROUPS and word not in COLLECTIONS:
            raise UserError(f"--what {word!r} is not known; known are {', '.join([*GROUPS, *COLLECTIONS])}")
    wanted = {name for word in what for name in GROUPS.get(word, (word,))}
    return [name for name in COLLECTIONS if name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m utils.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", nargs="+", default=["all"], help=f"of {', '.join([*GROUPS, *COLLECTIONS])}")
    parser.add_argument("--out", type=Path, default=CHECKOUT, help="the folder that takes PixDLM/ and data/")
    parser.add_argument("--endpoint", default=os.environ.get("HF_ENDPOINT") or HUB, help="the hub or a mirror of it")
    args = parser.parse_args()
    if not re.match(r"https?://", args.endpoint):
        raise UserError(f"--endpoint {args.endpoint!r} is no address; it begins with https://")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    download(chosen_names(args.what), args.out, args.endpoint.rstrip("/"))
