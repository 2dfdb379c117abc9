"""Pictures from strangers: refused by their header, before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from model.inputs.picture_files import name_of_file, opened_picture
from utils.runtime.errors import UserError

# Of Pillow's formats those that cameras and editors write; others run programs (EPS) or are rarely tried.
FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
CURE = "Send a JPEG, PNG, TIFF or WebP picture that opens in a viewer."


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Args:
        upload_bytes: of a picture file.
        pixels: of a picture.
        questions: about a picture in one request.
        characters: of all questions of a request together.
        seconds: that a request may wait for its answers.
    """

    upload_bytes: int = 20 << 20
    pixels: int = 50_000_000
    questions: int = 16
    characters: int = 100_000
    seconds: float = 120.0


def check_picture(data: bytes, limits: Limits) -> None:
    """Look at a picture's header.

    Raises:
        UserError: it is no picture, of a kind that is not taken, or has more pixels than the limit or than Pillow's,
            which keeps out what is small as a file and huge when it is decoded.
    """
    with opened_picture(data) as picture:
        (width, height), kind = picture.size, picture.format
    if kind not in FORMATS:
        raise UserError(f"{name_of_file(data)}: {kind} is not taken; convert it to JPEG or PNG")
    if width * height > limits.pixels:
        raise UserError(
            f"{name_of_file(data)}: {width} x {height} pixels, more than the {limits.pixels / 1e6:g} million that are "
            "taken; make it smaller or cut it into tiles"
        )
