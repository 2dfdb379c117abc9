"""Small archives in the manner of DRSeg's, and what they are when laid out."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

COUNTS = {"train": 3, "val": 2, "test": 4}
IDS = {split: [f"{split}_{i}" for i in range(count)] for split, count in COUNTS.items()}


def picture(name: str) -> bytes:
    return b"\xff\xd8" + name.encode() * 500


def labels(split: str) -> bytes:
    return json.dumps([{"id": name, "ann_list": []} for name in IDS[split]]).encode()


def published_members() -> dict[str, bytes]:
    """Members of an archive whose folders sit elsewhere than the code expects them."""
    members = {}
    for split, ids in IDS.items():
        members[f"DRSeg/annotations/DRSeg_{split}.json"] = labels(split)
        members.update({f"DRSeg/images/DR{split}/{name}.jpg": picture(name) for name in ids})
    return members


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def check_layout(out: Path) -> None:
    for split, ids in IDS.items():
        assert (out / "labels" / f"DRSeg_{split}.json").read_bytes() == labels(split)
        folder = out / "CODrone" / f"DR{split}"
        assert sorted(path.name for path in folder.iterdir()) == [f"{name}.jpg" for name in ids]
        assert all((folder / f"{name}.jpg").read_bytes() == picture(name) for name in ids)
