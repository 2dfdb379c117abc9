"""Picture files of every form: turned upright, at their full depth, whatever else is in the file."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from model.inputs.images import Picture, frame_of, read_image
from model.inputs.picture_files import PictureHeader, channel_bits, read_header, scaled_to_8_bits, turned
from model.presets import mini_config
from utils.runtime.errors import UserError

TURNS = {  # what each value of the tag asks for, by Pillow's names
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
JPEG_NOISE = 3  # grey levels on average, in smooth pictures


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1).astype(np.uint8)


def grey(height: int = 40, width: int = 60) -> np.ndarray:
    return np.repeat(smooth(height, width)[..., :1], 3, axis=2)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < JPEG_NOISE


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def png_with(path: Path, before: tuple[bytes, bytes] | None, after: tuple[bytes, bytes] | None = None) -> Path:
    """An intact PNG of 1 x 2 pixels, with chunks before and after its pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 2, 8, 0, 0, 0, 0)), before]
    chunks += [(b"IDAT", zlib.compress(b"\0\x07\0\x09")), after, (b"IEND", b"")]
    path.write_bytes(png([one for one in chunks if one]))
    return path


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# Orientation


def save_tagged(path: Path, pixels: np.ndarray, orientation: int, form: str) -> Path:
    image = Image.fromarray(pixels)
    if form == "MPO":
        image.save(path, "MPO", save_all=True, append_images=[image], exif=exif(orientation), quality=95)
    elif form.startswith("TIFF"):
        image.save(path, "TIFF", tiffinfo={0x0112: orientation}, compression="tiff_lzw" if "LZW" in form else None)
    else:
        image.save(path, form, exif=exif(orientation), quality=95)
    return path


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "MPO", "TIFF", "TIFF LZW"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_a_tag_is_applied_unless_the_stored_pixels_are_asked_for(
    tmp_path: Path, form: str, orientation: int, kind: str
) -> None:
    stored = smooth() if kind == "colour" else grey()
    path = save_tagged(tmp_path / "a", stored if kind == "colour" else stored[..., 0].copy(), orientation, form)
    upright = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation])) if orientation > 1 else stored
    assert np.array_equal(turned(stored, orientation), upright)
    assert read_header(path) == PictureHeader(40, 60, orientation)
    for asked, expected in ((True, upright), (False, stored)):
        assert close(read_image(path, asked), expected)
        frame = frame_of(path, mini_config(), asked)
        assert close(frame.pixels, expected)
        assert (frame.geometry.height, frame.geometry.width) == expected.shape[:2] == read_header(path).size(asked)
    for image in (Image.open(path), Picture(path), str(path)):
        assert np.array_equal(frame_of(image, mini_config()).pixels, read_image(path))


@pytest.mark.parametrize("orientation", [2, 3, 6, 7, 8])
@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_reduced_decoding_is_turned_too(tmp_path: Path, orientation: int, form: str) -> None:
    path = save_tagged(tmp_path / "a.jpg", smooth(1200, 1600), orientation, form)
    for upright in (True, False):
        frame, whole = frame_of(path, mini_config(), upright), read_image(path, upright)
        assert frame.pixels.shape[0] * 8 == whole.shape[0] == frame.geometry.height
        small = cv2.resize(whole, frame.pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert close(frame.pixels, small)


def test_tags_in_other_places_count_as_viewers_count_them(tmp_path: Path) -> None:
    tag = exif(6).tobytes()[6:]
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="3"/>'
    assert read_header(png_with(tmp_path / "a.png", (b"eXIf", tag))).orientation == 6
    assert read_header(png_with(tmp_path / "b.png", None, (b"eXIf", tag))).orientation == 6  # behind the pixels
    assert read_header(png_with(tmp_path / "c.png", None, (b"iTXt", xmp))).orientation == 3
    assert read_image(tmp_path / "b.png")[..., 0].tolist() == [[9, 7]]


def test_a_png_header_is_read_without_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = png_with(tmp_path / "a.png", None)
    monkeypatch.setattr(Image.Image, "load", None)
    assert read_header(path) == PictureHeader(2, 1, 1)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_tag_that_means_nothing_is_none(tmp_path: Path, value: int) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=exif(value))
    assert read_header(tmp_path / "a.png").orientation == 1
    assert np.array_equal(read_image(tmp_path / "a.png"), smooth())


def test_a_broken_exif_costs_no_picture_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = png_with(tmp_path / "a.png", (b"eXIf", b"no TIFF header at all"))
    with caplog.at_level(logging.WARNING):
        assert read_image(path)[..., 0].tolist() == [[7], [9]]
    assert "a.png: its EXIF cannot be read" in caplog.text


# More than 8 bits a channel


@pytest.mark.parametrize("ending", ["png", "tif", "jp2", "pgm"])
@pytest.mark.parametrize("brightness", [1, 4])
def test_grey_of_16_bits_is_that_of_8(tmp_path: Path, ending: str, brightness: int) -> None:
    dark = grey(120, 200) // brightness
    path = tmp_path / f"a.{ending}"
    assert cv2.imwrite(str(path), dark[..., 0].astype(np.uint16) * 257, lossless(ending))
    assert np.array_equal(read_image(path), dark)
    assert np.array_equal(frame_of(Image.open(path), mini_config()).pixels, dark)


@pytest.mark.parametrize("ending", ["png", "tif", "jp2", "ppm"])
def test_colours_of_16_bits_are_those_of_8(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    assert cv2.imwrite(str(path), smooth(120, 200)[..., ::-1].astype(np.uint16) * 257, lossless(ending))
    assert np.array_equal(read_image(path), smooth(120, 200))
    with Image.open(path) as image:
        assert channel_bits(image) == 16
    cv2.imwrite(str(path), smooth(120, 200)[..., ::-1].astype(np.uint16) * 16, lossless(ending))  # 12 bits in 16
    with pytest.raises(UserError, match=rf"a\.{ending}: .* run from 0 to 40\d\d, where 0 to 65535 is the whole range"):
        read_image(path)


def lossless(ending: str) -> list[int]:
    return [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if ending == "jp2" else []


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_either_byte_order_and_32_bits_are_read(tmp_path: Path, byte_order: str) -> None:
    wide = grey()[..., 0].astype(np.uint16) * 257
    Image.fromarray(wide.astype(byte_order)).save(tmp_path / "a.tif")
    Image.fromarray(wide.astype(np.int32)).save(tmp_path / "b.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif"), grey())
    assert np.array_equal(read_image(tmp_path / "b.tif"), grey())


def test_alpha_of_16_bits_is_dropped_as_that_of_8(tmp_path: Path) -> None:
    wide = np.dstack([smooth()[..., ::-1], smooth()[..., 0]]).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "a.png"), wide)
    assert np.array_equal(read_image(tmp_path / "a.png"), smooth())


def test_what_spans_the_range_is_scaled_and_a_small_part_of_it_is_not() -> None:
    assert scaled_to_8_bits(np.array([0, 128, 129, 32768, 65535])).tolist() == [0, 0, 1, 128, 255]
    assert scaled_to_8_bits(np.array([0, 1, 4095]), 4095).tolist() == [0, 0, 255]
    assert scaled_to_8_bits(np.array([512, 1024])).tolist() == [2, 4]  # bytes moved up
    assert scaled_to_8_bits(np.array([514, 1028])).tolist() == [2, 4]  # bytes doubled
    for values in ([28000, 31060], [0, 236], [-5, 65535], [0, 70000]):
        with pytest.raises(UserError, match=f"run from {values[0]} to {values[1]}, .* convert it to 8 bits a channel"):
            scaled_to_8_bits(np.array(values))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_temperatures_are_refused_when_the_header_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"thermal.{ending}"
    cv2.imwrite(str(path), 28000 + smooth()[..., 0].astype(np.uint16) * 12)
    for read in (read_header, read_image, lambda path: frame_of(path, mini_config())):
        with pytest.raises(UserError, match=rf"thermal\.{ending}: its pixels have more than 8 bits a channel"):
            read(path)
    with pytest.raises(UserError, match="a PIL image: its pixels have more than 8 bits"):
        frame_of(Image.open(path), mini_config())


def test_other_kinds_of_pixels_are_refused_as_what_they_are(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.tif"), smooth()[..., 0].astype(np.float32) / 255)
    with pytest.raises(UserError, match=r"grey\.tif: its pixels are in floating point"):
        read_header(tmp_path / "grey.tif")
    cv2.imwrite(str(tmp_path / "colour.tif"), smooth().astype(np.float32))
    with pytest.raises(UserError, match=r"colour\.tif: a TIFF of a kind that is not read, or damaged; convert"):
        read_header(tmp_path / "colour.tif")
    Image.fromarray(smooth()).convert("LAB").save(tmp_path / "lab.tif")
    with pytest.raises(UserError, match=r"lab\.tif: its pixels are of the kind LAB"):
        read_header(tmp_path / "lab.tif")


def test_a_cut_off_picture_of_16_bits_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"a\.png: damaged or no picture"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_forms_of_8_bits_stay_as_pillow_reads_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


# What else is in a file


LONG = zlib.compress(b"x" * (3 << 20))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"k\0\0" + LONG),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
        (b"tEXt", b"k\0" + b"x" * (3 << 20)),
        (b"iCCP", b"k\0\0" + LONG),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_large_metadata_do_not_make_a_picture_damaged(tmp_path: Path, chunk: tuple[bytes, bytes]) -> None:
    for place in ((chunk, None), (None, chunk)):
        assert read_image(png_with(tmp_path / "a.png", *place))[..., 0].tolist() == [[7], [9]]


def test_metadata_without_bounds_are_told_as_that(tmp_path: Path) -> None:
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(b"x" * (65 << 20)))
    with pytest.raises(UserError, match=r"a\.png: its text metadata are too large to read .*; remove them"):
        read_image(png_with(tmp_path / "a.png", bomb))


def test_a_jpeg_may_have_many_segments(tmp_path: Path) -> None:
    tags = exif(3)
    tags[0x9286] = b"c" * 60_000
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=tags, icc_profile=b"\0" * 1_000_000, quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", 65_002) + b"http://ns.adobe.com/xmp/extension/\0".ljust(65_000, b"z")
    (tmp_path / "a.jpg").write_bytes(content[:2] + segment * 100 + content[2:])
    assert close(read_image(tmp_path / "a.jpg"), smooth()[::-1, ::-1])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    Image.new("RGB", (40, 30), (200, 50, 0)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"iinf", b"xinf"))
    with pytest.raises(UserError, match=r"a\.avif: damaged or no picture"):
        read_image(path)
