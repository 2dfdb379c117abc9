"""Pictures in files: opened, turned upright, and brought to 8 bits a channel; alike wherever one is read.

An orientation tag (EXIF 0x112) says how viewers turn the stored pixels. Pillow applies it to TIFF by itself when
the pixels are read, and to no other format.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from utils.runtime.errors import UserError, permission_denied

log = logging.getLogger(__name__)

ORIENTATION = 0x0112
AS_STORED = 1
# Pillow's limits of 1 and 64 MiB keep bombs out; photo editors write more, but nothing beyond these.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 64 << 20)
PngImagePlugin.MAX_TEXT_MEMORY = max(PngImagePlugin.MAX_TEXT_MEMORY, 256 << 20)

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
CURE = "convert it to 8 bits a channel with the scale that you mean"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class PixelsNotUsed(UserError):
    """Pixels that are there, but of a kind that has no sure 8-bit form; the message does not name the file."""


@dataclass(frozen=True)
class PictureHeader:
    """What is known of a picture before its pixels are decoded.

    Args:
        height: in pixels, as they are stored.
        width: likewise.
        orientation: the value of its tag, 1 to 8; 1 where there is none.
    """

    height: int
    width: int
    orientation: int

    def size(self, upright: bool) -> tuple[int, int]:
        """(height, width), with the orientation tag applied or not."""
        turned = upright and self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def read_header(path: Path | str, decode: bool = False) -> PictureHeader:
    """A picture's header; with `decode`, and where it has more than 8 bits a channel, its pixels are tried too.

    Raises:
        UserError: as `opened_picture`.
    """
    with opened_picture(path) as picture:
        header = header_of(picture)
        if decode or picture.mode not in EIGHT_BIT_MODES or channel_bits(picture) > 8:
            decoded(picture)
        return header


PictureFile = Path | str | bytes  # a path, or the content of a file


def name_of_file(file: PictureFile) -> str:
    """What an error calls a picture file."""
    return f"a picture of {len(file)} bytes" if isinstance(file, bytes) else str(file)


@contextmanager
def opened_picture(source: PictureFile) -> Iterator[Image.Image]:
    """The picture, of which only the header has been read; what goes wrong in the block names the file.

    Raises:
        UserError: it is missing, may not be read, is cut off, no picture, too large to decode at once, or of
            another kind of pixels.
    """
    path = name_of_file(source)
    try:
        # Not by its name: Pillow would map an uncompressed TIFF into memory, and mixes the pixels of those that
        # are tagged to be turned by a quarter.
        opened = BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115 (closed below)
        with opened as file, Image.open(file) as picture:
            yield picture
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such picture") from error
    except PermissionError as error:
        raise permission_denied(path) from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; name the pictures in it") from error
    except PixelsNotUsed as error:
        raise UserError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large to decode at once ({error}); cut it into tiles") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: {_unknown_kind(source)}") from error
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # the last of damaged AVIF and DDS
        if "MAX_TEXT" in str(error):
            raise UserError(f"{path}: its text metadata are too large to read ({error}); remove them") from error
        raise UserError(f"{path}: damaged or no picture ({error}); replace the file") from error


def header_of(picture: Image.Image) -> PictureHeader:
    """Of an opened picture whose pixels have not been read."""
    tag = orientation_of(picture)
    width, height = picture.size
    if picture.format == "TIFF" and tag >= 5:  # whose size Pillow gives as it will be
        width, height = height, width
    return PictureHeader(height, width, tag)


def orientation_of(picture: Image.Image) -> int:
    """The value of a picture's orientation tag, 1 to 8; 1 where there is none that means anything."""
    png_opened = isinstance(picture, PngImagePlugin.PngImageFile) and picture.fp is not None
    if png_opened and "exif" not in picture.info and _metadata_follow_pixels(picture):
        picture.load()
    try:
        # Pillow reads all pixels of a PNG to look for metadata behind them.
        exif = Image.Image.getexif(picture) if png_opened else picture.getexif()
        tag = exif.get(ORIENTATION, AS_STORED)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error) as error:
        log.warning("%s: its EXIF cannot be read (%s), so it is taken as it is stored", _name(picture), error)
        return AS_STORED
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else AS_STORED


def decoded(picture: Image.Image, upright: bool = True) -> np.ndarray:
    """uint8[H, W, 3], RGB; alpha is dropped.

    Args:
        picture: from a file or made by PIL.
        upright: turned as its orientation tag says.

    Raises:
        PixelsNotUsed: more than 8 bits a channel without a sure scale, floating point, or another kind.
    """
    tag, turned_by_pillow = orientation_of(picture), picture.format == "TIFF"
    if turned_by_pillow and tag >= 5 and picture.filename:  # opened by its name: see `opened_picture`
        with Image.open(BytesIO(_file_bytes(picture))) as again:
            again.seek(picture.tell())
            return decoded(again, upright)
    pixels = _eight_bits(picture)
    if turned_by_pillow:
        return pixels if upright else turned(pixels, {6: 8, 8: 6}.get(tag, tag))
    return turned(pixels, tag) if upright else pixels


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, …] as an orientation tag turns it; the values are those of EXIF."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def channel_bits(picture: Image.Image) -> int:
    """Bits a channel as stored in the file, which Pillow cuts to 8 where there are several channels.

    Only a picture whose pixels have not been read tells.
    """
    rawmode, *more = _decoder_arguments(picture)
    if picture.format == "PNG":
        return 16 if str(rawmode).endswith(";16B") else 8
    if picture.format == "TIFF":
        return max(picture.tag_v2.get(258, (1,)))
    if picture.format == "PPM":
        return 16 if more and isinstance(more[0], int) and more[0] > 255 else 8
    if picture.format == "JPEG2000" and picture.fp is not None:
        return _jpeg2000_bits(_file_bytes(picture, 1 << 16))
    return 8


def _eight_bits(picture: Image.Image) -> np.ndarray:
    """uint8[H, W, 3] as Pillow gives it, turned or not."""
    if picture.mode == "F":
        raise PixelsNotUsed(f"its pixels are in floating point, of which no scale is known; {CURE}")
    grey = picture.mode == "I" or picture.mode.startswith("I;16")
    if not grey and picture.mode not in EIGHT_BIT_MODES:
        raise PixelsNotUsed(f"its pixels are of the kind {picture.mode}; convert it to RGB of 8 bits")
    bits = channel_bits(picture) if getattr(picture, "tile", None) else 8  # read already, cut to 8 then
    if (not grey and bits > 8) or (picture.format == "JPEG2000" and bits > 8):
        return _eight_bits_by_opencv(picture, bits)
    if not grey:
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    inverted = picture.format == "TIFF" and picture.tag_v2.get(262) == 0  # white is zero
    top = (1 << bits) - 1 if 8 < bits < 16 else 65535
    values = scaled_to_8_bits(np.asarray(picture), top)
    return np.repeat((255 - values if inverted else values)[..., None], 3, axis=2)


def scaled_to_8_bits(values: np.ndarray, top: int = 65535) -> np.ndarray:
    """Integers of 0 to `top` as uint8 of the same shape.

    What was widened from 8 bits (times 257 or 256) comes back exactly; what spans half the range or more is
    scaled as viewers do. Of anything else, such as temperatures or heights, no scale is sure: that by the range
    of one picture would paint the same temperature in two colours in two of them.

    Raises:
        PixelsNotUsed: the values span less than half the range, or leave it.
    """
    low, high = int(values.min()), int(values.max())
    if 0 <= low and high <= top:
        if top == 65535 and not (values % 257).any():
            return (values // 257).astype(np.uint8)
        if top == 65535 and not (values % 256).any():
            return (values // 256).astype(np.uint8)
        if 2 * (high - low) >= top:
            return np.rint(values * (255 / top)).astype(np.uint8)
    raise PixelsNotUsed(
        f"its pixels have more than 8 bits a channel and run from {low} to {high}, where 0 to {top} is the whole "
        f"range, so that no scale is sure; {CURE}"
    )


def _eight_bits_by_opencv(picture: Image.Image, bits: int) -> np.ndarray:
    """Of pictures whose 16 bits Pillow would cut; it decodes them all the same, since it tells a cut-off file."""
    data = _file_bytes(picture)
    top = _decoder_arguments(picture)[1] if picture.format == "PPM" else (1 << bits) - 1
    unsure = picture.mode in ("CMYK", "YCbCr") or (picture.format == "TIFF" and picture.tag_v2.get(284) == 2)  # planes
    picture.load()
    values = None if unsure else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[1::-1] != picture.size:
        raise PixelsNotUsed(f"a {picture.format} of {bits} bits a channel in a form that is not read; {CURE}")
    colours = values[..., 2::-1] if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return np.ascontiguousarray(scaled_to_8_bits(colours, top))


def _decoder_arguments(picture: Image.Image) -> tuple:
    """What Pillow's decoder is told: the form of the stored pixels first."""
    arguments = picture.tile[0][3] if getattr(picture, "tile", None) else ""
    return arguments if isinstance(arguments, tuple) and arguments else (arguments,)


def _file_bytes(picture: Image.Image, count: int = -1) -> bytes:
    place = picture.fp.tell()
    picture.fp.seek(0)
    data = picture.fp.read(count)
    picture.fp.seek(place)
    return data


def _jpeg2000_bits(head: bytes) -> int:
    """The most bits of a channel, from the SIZ segment that begins the code stream."""
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return 8
    channels = int.from_bytes(head[start + 40 : start + 42], "big")
    return max(((byte & 0x7F) + 1 for byte in head[start + 42 : start + 42 + 3 * channels : 3]), default=8)


def _metadata_follow_pixels(picture: Image.Image) -> bool:
    """Whether a PNG has chunks of metadata behind its pixels, by the chunks' names alone."""
    file, place = picture.fp, picture.fp.tell()
    file.seek(8)
    pixels = found = False
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND" and not found:
        pixels |= head[4:] == b"IDAT"
        found = pixels and head[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt")
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    file.seek(place)
    return found


def _unknown_kind(source: PictureFile) -> str:
    if isinstance(source, bytes):
        head = source[:12]
    else:
        with open(source, "rb") as file:
            head = file.read(12)
    if not head:
        return "damaged or no picture (the file is empty); replace the file"
    if head[:4] in TIFF_MAGIC:
        return "a TIFF of a kind that is not read, or damaged; convert it to RGB of 8 bits a channel"
    if head[4:8] == b"ftyp":
        return "HEIC, or another kind of its family that is not read; convert it to JPEG or PNG"
    return "damaged or no picture (of no known kind); replace the file"


def _name(picture: Image.Image) -> str:
    return getattr(getattr(picture, "fp", None), "name", None) or getattr(picture, "filename", "") or "a picture"
