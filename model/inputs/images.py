"""Pictures into the networks' geometry, and masks back out of it.

Two geometries (`PixDLMConfig.geometry`): "letterbox" scales a frame's longer side to the canvas and
lays it at the top left, so that masks are mapped back exactly; "centre_crop" is the published one,
where a frame loses its sides and the mask is stretched over the whole frame all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.config import PixDLMConfig
from model.inputs.picture_files import PictureFile, PixelsNotUsed, decoded, header_of, opened_picture
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_write

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAM2_MEAN, SAM2_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

# OpenCV's own threads gain nothing beside DataLoader workers and hang some of them after a fork.
cv2.setNumThreads(0)


# Smaller frames are decoded in full: that takes milliseconds, and weights trained on small canvases depend on it.
DRAFT_PIXELS = 1 << 20


def read_image(path: Path | str, upright: bool = True) -> np.ndarray:
    """A picture as uint8[H, W, 3], RGB.

    PIL decodes, since OpenCV silently fills the missing part of a truncated file with grey.

    Args:
        path: of the file.
        upright: rotated as its orientation tag says, as viewers show it; else in the pixel order of the file,
            for labels that were drawn on that.

    Raises:
        UserError: the file is missing, cut off, no picture, too large to decode at once, or has more than 8 bits
            a channel without a scale that is sure (`model.inputs.picture_files.scaled_to_8_bits`).
    """
    return Picture(path, upright).pixels


class Picture:
    """A picture file, decoded lazily: in full (once), or at the size that the networks need.

    Args:
        path: of the file; or its content.
        upright: as for `read_image`.
    """

    def __init__(self, path: PictureFile, upright: bool = True) -> None:
        self.path, self.upright = path, upright

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8[H, W, 3], the whole picture; see `read_image`."""
        with opened_picture(self.path) as picture:
            return decoded(picture, self.upright)

    def frame(self, config: PixDLMConfig) -> Frame:
        """The picture at the size that the networks need.

        libjpeg decodes at 1/2, 1/4 or 1/8 of the size in a fraction of the time, without aliasing. The smallest
        size is taken that is no smaller than the larger canvas and divides the frame exactly, so that positions
        do not shift. Small frames (`DRAFT_PIXELS`), other formats than JPEG and every frame under "centre_crop",
        which reproduces published numbers exactly, are decoded in full.

        Raises:
            UserError: as `read_image`.
        """
        with opened_picture(self.path) as picture:
            geometry = Geometry(config.geometry, *header_of(picture).size(self.upright))
            scale, whole = _smallest_scale(geometry, config), picture.size
            if scale > 1:
                picture.draft(None, (picture.width // scale, picture.height // scale))
            if picture.size != whole:
                return Frame(decoded(picture, self.upright), geometry)
        return Frame(self.pixels, geometry)


@dataclass(frozen=True)
class Frame:
    """A picture as the networks read it.

    Args:
        pixels: uint8[h, w, 3], RGB; smaller than the picture where it was decoded at a reduced size.
        geometry: with height and width of the full picture, the frame of all masks.
    """

    pixels: np.ndarray
    geometry: Geometry


ImageInput = str | Path | bytes | Image.Image | np.ndarray | Picture


def frame_of(image: ImageInput, config: PixDLMConfig, upright: bool = True) -> Frame:
    """A picture from a file or its bytes, from PIL, or uint8[H, W, 3] (RGB) or uint8[H, W] (grey), as networks read it.

    A file's orientation tag is applied, and likewise that of a PIL image that carries one
    (`PIL.ImageOps.exif_transpose` takes it off); masks lie in the picture as it is then.

    Args:
        image: the picture; arrays are taken as they are.
        config: of the model.
        upright: False leaves a file's pixels as they are stored.

    Raises:
        UserError: as `read_image`.
        TypeError: none of these.
    """
    if isinstance(image, (str, Path, bytes)):
        image = Picture(image, upright)
    if isinstance(image, Picture):
        return image.frame(config)
    pixels = whole_pixels(image)
    return Frame(pixels, geometry_of(pixels, config))


def whole_pixels(image: ImageInput) -> np.ndarray:
    """uint8[H, W, 3], RGB, the whole of a picture, upright where its file or PIL tell how.

    Raises:
        UserError: as `read_image`.
        TypeError: no picture.
    """
    if isinstance(image, (str, Path, bytes)):
        image = Picture(image)
    if isinstance(image, Picture):
        return image.pixels
    if isinstance(image, Image.Image):
        try:
            image = decoded(image)
        except PixelsNotUsed as error:
            raise UserError(f"a PIL image: {error}") from error
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)):
        found = f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"an image is a path, bytes, a PIL image, uint8[H, W, 3] or uint8[H, W]; got {found}")
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8[H, W, 3] RGB or uint8[H, W], the format by the file's suffix, atomically.

    Raises:
        OSError: the picture could not be written.
    """
    try:
        atomic_write(path, encoded_image(path.suffix, image))
    except ValueError as error:
        raise OSError(f"{path}: {error}") from error


def encoded_image(ending: str, image: np.ndarray) -> bytes:
    """uint8[H, W, 3] RGB or uint8[H, W] as a file's content.

    Args:
        ending: of its name, which says the format.
        image: its pixels.

    Raises:
        ValueError: OpenCV cannot encode it.
    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(Path(f"image{ending}").suffix, pixels)
    if not done:
        raise ValueError("OpenCV cannot encode this picture")
    return data.tobytes()


def _smallest_scale(geometry: Geometry, config: PixDLMConfig) -> int:
    """The divisor at which a JPEG may be decoded without losing pixels of the canvases: 1, 2, 4 or 8."""
    height, width = geometry.height, geometry.width
    if geometry.kind != "letterbox" or height * width < DRAFT_PIXELS:
        return 1
    canvas = max(config.vision_config.image_size, config.pixel_image_size if config.pixel_input == "frame" else 0)
    fitting = (scale for scale in (8, 4, 2) if not height % scale and not width % scale)
    return next((scale for scale in fitting if max(height, width) >= scale * canvas), 1)


@dataclass(frozen=True)
class Geometry:
    """How a frame of `height` x `width` pixels lies in the networks' square canvas."""

    kind: str
    height: int
    width: int

    def content(self, size: int) -> tuple[int, int]:
        """Rows and columns of a `size` x `size` canvas that the frame covers, from the top left."""
        if self.kind == "centre_crop":
            return size, size
        return self.scaled(size)

    def scaled(self, longer: int) -> tuple[int, int]:
        """Height and width of the frame with its longer side scaled to `longer`."""
        now = max(self.height, self.width)
        return max(1, round(self.height * longer / now)), max(1, round(self.width * longer / now))


def geometry_of(image: np.ndarray, config: PixDLMConfig) -> Geometry:
    """The geometry of a picture uint8[H, W, 3] under a configuration."""
    return Geometry(config.geometry, image.shape[0], image.shape[1])


def clip_pixels(image: np.ndarray, config: PixDLMConfig) -> Tensor:
    """CLIP's input: uint8[H, W, 3] -> float32[3, S, S] with S = `vision_config.image_size`."""
    size = config.vision_config.image_size
    if config.geometry == "centre_crop":
        return _normalise(_centre_crop(image, size), CLIP_MEAN, CLIP_STD)
    return _letterbox(image, geometry_of(image, config), size, CLIP_MEAN, CLIP_STD)


def sam_pixels(image: np.ndarray, config: PixDLMConfig) -> Tensor | None:
    """SAM2's input: uint8[H, W, 3] -> float32[3, P, P] with P = `pixel_image_size`.

    None where `pixel_input` is "clip_tensor": the pixel path then enlarges CLIP's tensor itself.
    """
    if config.pixel_input == "clip_tensor":
        return None
    return _letterbox(image, geometry_of(image, config), config.pixel_image_size, SAM2_MEAN, SAM2_STD)


def frame_logits(
    logits: Tensor, geometry: Geometry, config: PixDLMConfig, size: tuple[int, int] | None = None
) -> Tensor:
    """Mask logits from the network's geometry to the frame's, bilinearly and differentiably.

    Args:
        logits: float[K, m, m]
        geometry: of the picture.
        config: gives the canvas: 448 as published, then stretched to the frame; for a letterbox
            `pixel_image_size`, cropped to its content.
        size: height and width of the result; default: the frame's.

    Returns:
        float[K, height, width]
    """
    crop = geometry.kind == "centre_crop"
    canvas = config.vision_config.image_size if crop else config.pixel_image_size
    rows, columns = geometry.content(canvas)
    on_canvas = resize_maps(logits, (canvas, canvas))[:, :rows, :columns]
    return resize_maps(on_canvas, size or (geometry.height, geometry.width))


def network_mask(mask: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    """A frame's mask on the canvas: uint8[H, W] -> uint8[size, size], zero beyond the frame.

    The inverse of `frame_logits`: exact where the canvas has the frame's size or at least twice that; else single
    pixels along the mask's border may differ.

    Raises:
        ValueError: for "centre_crop", whose way back is not its inverse.
    """
    if geometry.kind != "letterbox":
        raise ValueError(f"{geometry.kind} has no inverse: what was cropped is lost")
    rows, columns = geometry.content(size)
    canvas = np.zeros((size, size), np.uint8)
    canvas[:rows, :columns] = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    return canvas


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """float[M, h, w] -> float[M, H, W], bilinear."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    # Maps as the batch dimension, which may be empty: a question without targets has no map.
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _letterbox(image: np.ndarray, geometry: Geometry, size: int, mean: tuple, std: tuple) -> Tensor:
    rows, columns = geometry.content(size)
    shrinks = rows < image.shape[0]
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    canvas = torch.zeros(3, size, size)
    canvas[:, :rows, :columns] = _normalise(resized, mean, std)
    return canvas


def _centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """CLIP's published preprocessing: shorter side to `size`, PIL's bicubic, the middle cut out."""
    height, width = image.shape[:2]
    shorter, longer = min(height, width), max(height, width)
    longer = int(longer * size / shorter)
    rows, columns = (size, longer) if height <= width else (longer, size)
    resized = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    top, left = (rows - size) // 2, (columns - size) // 2
    return resized[top : top + size, left : left + size]


def _normalise(image: np.ndarray, mean: tuple, std: tuple) -> Tensor:
    """uint8[H, W, 3] -> float32[3, H, W], by a table of the 256 levels, in under half the time of arithmetic."""
    levels = torch.arange(256)[:, None].float() / 255
    table = (levels - torch.tensor(mean)) / torch.tensor(std)
    return torch.from_numpy(cv2.LUT(image, table.numpy()[:, None])).permute(2, 0, 1)
