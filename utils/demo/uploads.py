"""Where what is dropped on the page lies until it has been read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.runtime.errors import UserError


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this user's alone, which Gradio is told of before it is imported, and which goes in the end."""
    with tempfile.TemporaryDirectory(prefix="pixdlm-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        yield Path(folder)


def take_upload(path: Path) -> bytes:
    """What was uploaded, which does not stay on the disk.

    Raises:
        UserError: it is not there any longer.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("the upload was lost; drop the picture again") from error
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # its folder has something else in it, or is gone
            path.parent.rmdir()
        for left in path.parent.parent.glob("tmp*"):  # Gradio makes an empty one for each upload, and leaves it
            with suppress(FileNotFoundError):
                if not left.stat().st_size:  # others are uploads of somebody else that are still coming in
                    left.unlink()
