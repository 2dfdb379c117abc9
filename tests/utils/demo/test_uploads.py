"""utils.demo.uploads: an upload goes when it has been read, and nothing of other visitors goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.demo.uploads import take_upload
from utils.runtime.errors import UserError


def test_an_upload_and_what_gradio_leaves_of_it_go_and_those_of_others_stay(tmp_path: Path) -> None:
    upload = tmp_path / "hash/a.jpg"
    upload.parent.mkdir()
    upload.write_bytes(b"pixels")
    (tmp_path / "tmp1").touch()
    (tmp_path / "tmp2").write_bytes(b"half of somebody else's")
    assert take_upload(upload) == b"pixels"
    assert [path.name for path in tmp_path.iterdir()] == ["tmp2"]
    with pytest.raises(UserError, match="the upload was lost"):
        take_upload(upload)
