"""Pictures into the networks' geometry and masks back: golden pixels, and the letterbox as its own inverse."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from model.config import PixDLMConfig
from model.inputs.images import (
    Geometry,
    clip_pixels,
    frame_logits,
    frame_of,
    geometry_of,
    network_mask,
    read_image,
    sam_pixels,
    write_image,
)
from model.presets import mini_config, native_config, release_config
from tests.training import CHECKOUT
from utils.runtime.errors import UserError

CANVAS = mini_config().pixel_image_size
SMALL_FRAMES = [(96, 96), (60, 80), (96, 17), (1, 50), (CANVAS, CANVAS)]  # the canvas's size, or at most half of it
MIDDLE_FRAMES = [(150, 192), (192, 144), (110, 147), (181, 97)]
LARGE_FRAMES = [(384, 512), (720, 1280), (500, 200), (193, 193)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blobs(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 3, height // 3), (width // 6, height // 8), 30, 0, 360, 1, -1)
    cv2.ellipse(mask, (width, height), (width // 4, height // 4), 0, 0, 360, 1, -1)  # cut by two borders
    return mask


def there_and_back(mask: np.ndarray, config: PixDLMConfig) -> np.ndarray:
    geometry = Geometry(config.geometry, *mask.shape)
    canvas = network_mask(mask, geometry, config.pixel_image_size)
    logits = torch.from_numpy(canvas).float()[None] * 2 - 1
    return (frame_logits(logits, geometry, config)[0] > 0).numpy().astype(np.uint8)


# Reading


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(64, 96)).save(path, quality=95)
    return path


def test_pixels_come_as_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "red.png")
    Image.fromarray(red[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "red.png"), red)
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.full((4, 6, 3), 200, np.uint8))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_off_picture_is_named(tmp_path: Path, kept: float, progressive: bool) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise(200, 300)).save(path, quality=95, progressive=progressive)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"cut\.jpg: damaged or no picture"):
        read_image(path)


def test_a_picture_must_be_there_and_be_one(tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"none\.jpg: no such picture"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.jpg: damaged or no picture"):
        read_image(tmp_path / "text.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"a\.jpg: too large to decode at once"):
        read_image(picture)


# Reading as little as the networks need


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A frame of 1440 x 1080: a sine over a ramp, with texture and a sharp edge."""
    y, x = np.mgrid[:1080, :1440].astype(np.float32)
    ramp = np.stack([x / 8, y / 6, (x + y) / 12], axis=-1)
    texture = cv2.GaussianBlur(noise(1080, 1440).astype(np.float32) - 128, (0, 0), 1.0)  # about 20 grey levels
    picture = 30 + ramp + 20 * np.sin(x / 9)[..., None] + texture / 3
    picture[300:500, 700:900] = (220, 30, 60)
    path = tmp_path / "large.jpg"
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def config_of(side: int, **fields: object) -> PixDLMConfig:
    """`mini` with another canvas for SAM2."""
    return PixDLMConfig.from_dict({**mini_config().to_dict(), "pixel_image_size": side, **fields})


@pytest.mark.parametrize(
    ("side", "decoded"),
    [
        (64, (135, 180)),  # CLIP's 160 decides: 1/16 is not there, and an eighth has 180
        (160, (135, 180)),
        (192, (270, 360)),
        (360 - 360 % 32, (270, 360)),
        (384, (540, 720)),
        (704, (540, 720)),
        (736, (1080, 1440)),
        (1024, (1080, 1440)),
        (2048, (1080, 1440)),
    ],
)
def test_a_large_frame_is_decoded_as_small_as_the_larger_canvas_needs(
    large: Path, side: int, decoded: tuple[int, int]
) -> None:
    frame = frame_of(large, config_of(side))
    image, geometry = frame.pixels, frame.geometry
    assert image.shape == (*decoded, 3) and image.dtype == np.uint8
    assert geometry == Geometry("letterbox", 1080, 1440)  # masks and labels stay in the frame's pixels


def test_the_whole_frame_is_decoded_where_results_must_stay(tmp_path: Path, large: Path) -> None:
    """Published geometry, small frames, and formats that know no smaller decoding."""
    whole = read_image(large)
    frame = frame_of(large, release_config())
    image, geometry = frame.pixels, frame.geometry
    assert np.array_equal(image, whole) and geometry == Geometry("centre_crop", 1080, 1440)
    Image.fromarray(whole).save(tmp_path / "large.png")
    assert np.array_equal(frame_of(tmp_path / "large.png", config_of(160)).pixels, whole)
    Image.fromarray(whole[:720, :1280]).save(tmp_path / "small.jpg")
    assert np.array_equal(frame_of(tmp_path / "small.jpg", config_of(160)).pixels, read_image(tmp_path / "small.jpg"))


@pytest.mark.parametrize("side", [160, 352, 384, 704])
def test_a_smaller_decoding_looks_as_the_whole_frame_does(large: Path, side: int) -> None:
    """Both are shrunk to the canvas, one of them by libjpeg at first. In grey levels, of 255."""
    config = config_of(side)
    small, whole = frame_of(large, config).pixels, read_image(large)
    assert small.size <= whole.size // 4
    levels = 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    rows, columns = geometry_of(whole, config).content(side)
    difference = (sam_pixels(small, config) - sam_pixels(whole, config)) * levels
    assert difference[:, :rows, :columns].abs().mean() < 1.5
    assert difference[:, :rows, :columns].mean().abs() < 0.1


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(1200, 1600, 8), (1204, 1604, 4), (1206, 1604, 2), (1205, 1600, 1), (1602, 1200, 2)]
)
def test_a_smaller_decoding_lies_where_the_whole_frame_does(
    tmp_path: Path, height: int, width: int, scale: int
) -> None:
    """Only what divides the frame is taken: else its places would move by up to a pixel of the canvas."""
    config = config_of(160)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height // 2 :, width // 2 :] = 255
    path = tmp_path / "sized.jpg"
    Image.fromarray(picture).save(path, quality=95)
    frame = frame_of(path, config)
    image, geometry = frame.pixels, frame.geometry
    assert image.shape[:2] == (height // scale, width // scale)
    assert geometry_of(image, config).content(160) == geometry.content(160)
    small, whole = clip_pixels(image, config), clip_pixels(read_image(path), config)
    assert ((small > 0) != (whole > 0)).float().mean() < 0.001 and (small > 0).any()


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_off_frame_is_named_where_it_is_decoded_small(large: Path, kept: float, progressive: bool) -> None:
    Image.open(large).save(large, quality=95, progressive=progressive)
    content = large.read_bytes()
    large.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"large\.jpg: damaged or no picture"):
        frame_of(large, config_of(160))


# Release: the published centre crop


@pytest.mark.parametrize("number", [0, 1])  # a wide frame and a tall one
def test_release_pixels_are_the_golden_ones(number: int) -> None:
    config, golden = release_config(), CHECKOUT / "tests" / "golden"
    pixels = clip_pixels(read_image(golden / "DRSeg" / "CODrone" / "DRtest" / f"golden_{number}.jpg"), config)
    assert (pixels.shape, pixels.dtype) == ((3, 448, 448), torch.float32)
    expected = torch.from_numpy(np.load(golden / "expected.npz")[f"s{number}.pixel_values_16th"])
    assert (pixels[:, ::16, ::16] - expected).abs().max() < 1e-4 * expected.std()


def test_release_cuts_odd_rests_down() -> None:
    """151 / 90 * 448 is 751.6, of which 751 count; 303 are too many, of which 151 go first."""
    image = noise(90, 151)
    resized = np.asarray(Image.fromarray(image).resize((751, 448), Image.Resampling.BICUBIC))
    shown = resized[:, 151 : 151 + 448]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = torch.from_numpy((shown / 255 - mean) / std).permute(2, 0, 1).float()
    torch.testing.assert_close(clip_pixels(image, release_config()), expected)
    tall = clip_pixels(image.transpose(1, 0, 2), release_config())
    assert (tall - expected.transpose(1, 2)).abs().mean() < 0.01  # PIL rounds between its two passes


def test_release_gives_sam_no_pixels_of_its_own() -> None:
    assert sam_pixels(noise(20, 30), release_config()) is None


def test_release_stretches_masks_by_way_of_448() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 128, 128)
    expected = logits[None]
    for size in ((448, 448), (360, 640)):
        expected = F.interpolate(expected, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(frame_logits(logits, Geometry("centre_crop", 360, 640), release_config()), expected[0])


def test_the_centre_crop_has_no_inverse() -> None:
    with pytest.raises(ValueError, match="centre_crop has no inverse"):
        network_mask(np.zeros((4, 6), np.uint8), Geometry("centre_crop", 4, 6), 8)


# Letterbox


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (300, 500), (500, 300), (192, 192), (110, 147)])
def test_a_letterboxed_frame_lies_at_the_top_left_and_the_rest_is_zero(height: int, width: int) -> None:
    config = mini_config()
    image = noise(height, width)
    side = config.pixel_image_size
    rows, columns = geometry_of(image, config).content(side)
    assert (rows, columns) == (round(side * height / max(height, width)), round(side * width / max(height, width)))
    for pixels in (clip_pixels(image, config), sam_pixels(image, config)):
        assert (pixels.shape, pixels.dtype) == ((3, side, side), torch.float32)
        assert (pixels[:, :rows, :columns] != 0).any(dim=0).all()
        assert not pixels[:, rows:].any() and not pixels[:, :, columns:].any()


def test_each_network_gets_its_own_normalisation() -> None:
    image = np.full((192, 192, 3), (50, 100, 150), np.uint8)
    clip = (torch.tensor([50, 100, 150]) / 255 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    sam = (torch.tensor([50, 100, 150]) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(clip_pixels(image, mini_config())[:, 7, 9], clip)
    torch.testing.assert_close(sam_pixels(image, mini_config())[:, 7, 9], sam)


def test_native_sizes() -> None:
    image = noise(90, 160)
    assert clip_pixels(image, native_config()).shape == (3, 448, 448)
    assert sam_pixels(image, native_config()).shape == (3, 1024, 1024)


def test_shrinking_averages() -> None:
    side = 4 * mini_config().pixel_image_size
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::4] = 255  # one of the four columns that become one; its middle two would give 0
    pixels = sam_pixels(stripes, mini_config())
    grey = (torch.full((3,), 64 / 255) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels, grey[:, None, None].expand_as(pixels), atol=0.01, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1280, 720), (333, 500), (97, 1000), (64, 64)])
def test_both_networks_see_a_place_at_the_same_part_of_their_canvas(height: int, width: int) -> None:
    config = native_config()
    image = np.zeros((height, width, 3), np.uint8)
    bright = (slice(height // 2, height // 2 + height // 8), slice(width * 3 // 4, width * 3 // 4 + width // 8))
    image[bright] = 255
    expected = torch.tensor([bright[0].start + height // 8 / 2, bright[1].start + width // 8 / 2]) / max(height, width)
    for pixels in (clip_pixels(image, config), sam_pixels(image, config)):
        size = pixels.shape[-1]
        centre = (pixels[0] > 1).nonzero().float().mean(dim=0).add(0.5) / size
        torch.testing.assert_close(centre, expected, atol=1.0 / size, rtol=0)


@pytest.mark.parametrize(("height", "width"), SMALL_FRAMES)
def test_a_mask_comes_back_exactly_from_a_canvas_of_its_size_or_twice_that(height: int, width: int) -> None:
    for seed in range(3):
        mask = np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)
        assert np.array_equal(there_and_back(mask, mini_config()), mask)


@pytest.mark.parametrize(("height", "width"), MIDDLE_FRAMES + LARGE_FRAMES)
def test_a_mask_comes_back_nearly_from_other_canvases(height: int, width: int) -> None:
    mask = blobs(height, width)
    back = there_and_back(mask, mini_config())
    assert (mask & back).sum() / (mask | back).sum() > 0.95


def test_a_networks_mask_is_zero_beyond_the_frame() -> None:
    mask = network_mask(np.ones((60, 80), np.uint8), Geometry("letterbox", 60, 80), 192)
    assert (mask.shape, mask.dtype) == ((192, 192), np.uint8)
    assert mask[:144].all() and not mask[144:].any()


def test_logits_beyond_the_frame_do_not_reach_it() -> None:
    """Decoders give maps smaller than the canvas: up first, then the cut, so that places stay."""
    config = mini_config()
    logits = torch.full((1, 96, 96), -1.0)
    logits[:, :72] = 1.0  # 60 / 80 of 96
    inside = frame_logits(logits, Geometry("letterbox", 60, 80), config)
    assert inside.shape == (1, 60, 80)
    assert (inside > 0).all() and (inside[:, :58] == 1).all()


def test_frame_logits_draw_the_frame_in_fewer_pixels() -> None:
    """The content that is cut out follows from the picture's own proportions, whatever the size asked for."""
    config = mini_config()
    geometry = Geometry("letterbox", 104, 1600)
    rows = geometry.content(config.pixel_image_size)[0]
    ramp = torch.arange(config.mask_size, dtype=torch.float32)[None, :, None].expand(1, -1, config.mask_size)
    small = frame_logits(ramp, geometry, config, (rows, config.pixel_image_size))
    assert small.shape == (1, rows, config.pixel_image_size)
    whole = frame_logits(ramp, geometry, config)
    reduced = torch.nn.functional.adaptive_avg_pool2d(whole, (rows, config.pixel_image_size))
    torch.testing.assert_close(small, reduced, atol=0.3, rtol=0)


def test_frame_logits_passes_gradients_and_takes_no_masks() -> None:
    for config in (mini_config(), release_config()):
        geometry = Geometry(config.geometry, 30, 40)
        logits = torch.randn(2, 12, 12, dtype=torch.float64, requires_grad=True)
        frame_logits(logits, geometry, config).sum().backward()
        assert logits.grad[:, :8].all()
        assert frame_logits(torch.zeros(0, 12, 12), geometry, config).shape == (0, 30, 40)


# Writing


def test_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 0] = 200  # red, so that a swap of channels shows
    write_image(tmp_path / "a.png", picture)
    assert (read_image(tmp_path / "a.png") == picture).all()
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    write_image(tmp_path / "m.png", mask)
    with Image.open(tmp_path / "m.png") as stored:
        assert stored.mode == "L" and (np.asarray(stored) == mask).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "m.png"]
