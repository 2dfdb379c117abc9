"""utils.demo.pictures: what is refused by its header."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from utils.demo.pictures import Limits, check_picture
from utils.runtime.errors import UserError


def image_file(kind: str, width: int = 40, height: int = 30) -> bytes:
    file = BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"])
def test_pictures_of_cameras_and_editors_are_taken(kind: str) -> None:
    check_picture(image_file(kind), Limits())


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "TGA"])
def test_other_kinds_are_not(kind: str) -> None:
    with pytest.raises(UserError, match=f"a picture of .* bytes: ({kind} is not taken; convert|damaged or no picture)"):
        check_picture(image_file(kind), Limits())


def test_the_size_is_judged_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    check_picture(image_file("PNG"), Limits(pixels=1200))
    with pytest.raises(UserError, match="40 x 30 pixels, more than the 0.001199 million"):
        check_picture(image_file("PNG"), Limits(pixels=1199))
