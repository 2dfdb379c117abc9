"""Renders a planned scene: the photograph and an id buffer, which holds the thing that each pixel shows.

Both come from the same polygons painted far to near, so that the id buffer holds exactly the
visible parts. The photograph then gets texture, shadow, blur and noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from utils.mini_drseg.scene import FLAT_KINDS, PALETTE, RGB, Camera, Road, Scene, Thing
from utils.mini_drseg.shapes import Blob, Face, model

SHIFT = 4  # fractional bits of cv2's polygon coordinates
GROUND = {"grass": (98, 122, 66), "dry": (158, 146, 92), "soil": (150, 118, 86)}
EARTH: RGB = (146, 122, 88)  # visible where the grass is thin
ASPHALT: RGB = (96, 97, 100)
PAVING: RGB = (164, 158, 148)
MARKING: RGB = (226, 226, 218)

# Materials of the ground and their texture: strength of coarse and of fine noise
EARTHEN, HARD, WET = 0, 1, 2
TEXTURE = np.array([[0.16, 0.22], [0.06, 0.10], [0.05, 0.05]], np.float32)


@dataclass
class Picture:
    """A rendered scene.

    Attributes:
        image: uint8[H, W, 3], RGB.
        ids: uint8[H, W]; 0 is ground, i + 1 is `scene.things[i]`.
        outlines: for each thing the convex outline of the whole, hidden parts and those outside the
            frame included; float32[N, 2] pixels.
    """

    image: np.ndarray
    ids: np.ndarray
    outlines: list[np.ndarray]


def render(scene: Scene, rng: np.random.Generator) -> Picture:
    """Draw a scene; `rng` determines the texture's offset, stains and the sensor's noise."""
    outlines: list[np.ndarray] = [np.zeros((0, 2), np.float32)] * len(scene.things)
    ids = np.zeros((scene.camera.height, scene.camera.width), np.uint8)
    canvas = _paint_ground(scene, rng)
    for index, thing in enumerate(scene.things):
        if thing.kind in FLAT_KINDS:
            outlines[index] = _paint_flat(canvas, ids, scene, thing, index + 1)
    shaded = _shadow_mask(scene)
    canvas = _darken(canvas, shaded)
    parts = {i: _shaded_parts(scene, i) for i, t in enumerate(scene.things) if _is_standing(t)}
    points = {i: _extent(scene.camera, p) for i, p in parts.items()}
    for index in _painting_order(scene, points):
        outlines[index] = cv2.convexHull(points[index])[:, 0]
        _paint_parts(canvas, ids, scene.camera, parts[index], index + 1)
    return Picture(_simulate_sensor(canvas, scene.camera, rng), ids, outlines)


def _is_standing(thing: Thing) -> bool:
    return thing.kind not in FLAT_KINDS


# -- painting ----------------------------------------------------------------------------------
def _fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixels (0 at the frame's outer corner) to cv2's fixed point, which counts from pixel centres; int32[..., 2]."""
    return np.round((pixels - 0.5) * (1 << SHIFT)).astype(np.int32)


def _fill(image: np.ndarray, pixels: np.ndarray, colour: RGB | float, smooth: bool = True) -> None:
    """Fill a convex polygon float[N, 2], in pixels."""
    line = cv2.LINE_AA if smooth else cv2.LINE_8
    cv2.fillConvexPoly(image, _fixed_point(pixels), colour, line, SHIFT)


def _paint_ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The ground without things: uint8[H, W, 3]."""
    camera = scene.camera
    canvas = np.empty((camera.height, camera.width, 3), np.uint8)
    canvas[:] = _jitter(GROUND[scene.soil], rng, 0.12)
    material = np.zeros(canvas.shape[:2], np.uint8)
    for patch in scene.patches:
        outline = camera.project_ground(patch.footprint())
        _fill(canvas, outline, _jitter(PALETTE[patch.colour], rng, 0.15))
        _fill(material, outline, HARD, smooth=False)
    _paint_roads(canvas, material, scene, rng)
    canvas = _texture(canvas, material, camera, rng)
    for road in scene.roads:
        _paint_lines(canvas, scene, road)
    for lot in scene.lots:
        _paint_bays(canvas, camera, lot)
    return canvas


def _paint_roads(canvas: np.ndarray, material: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """Pavements first, then asphalt over them, so that junctions stay open."""
    camera, reach = scene.camera, scene.reach * 1.5
    asphalt = _jitter(ASPHALT, rng, 0.15)
    for pavement, colour in ((True, _jitter(PAVING, rng, 0.1)), (False, asphalt)):
        for road in scene.roads:
            edge = road.width / 2 + (road.pavement if pavement else 0)
            outline = camera.project_ground(road.strip(-reach, reach, -edge, edge))
            _fill(canvas, outline, colour)
            _fill(material, outline, HARD, smooth=False)
    for lot in scene.lots:
        outline = camera.project_ground(lot.footprint())
        _fill(canvas, outline, _jitter(asphalt, rng, 0.08))
        _fill(material, outline, HARD, smooth=False)


def _stains(camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Oil, repairs and worn spots: brightness of the ground, float32[H, W]."""
    gain = np.full((camera.height, camera.width), 255, np.uint8)
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    for _ in range(int(rng.integers(4, 14))):
        centre = camera.ground(rng.uniform(0, 1, 2) * (camera.width, camera.height))
        radius = rng.uniform(0.2, 1.3) * rng.uniform(0.6, 1.2, 14)
        blot = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
        hull = cv2.convexHull(camera.project_ground(blot).astype(np.float32))[:, 0]
        _fill(gain, hull, float(rng.uniform(190, 240)))
    return cv2.GaussianBlur(gain, (0, 0), 1.5).astype(np.float32) / 255


def _paint_lines(canvas: np.ndarray, scene: Scene, road: Road) -> None:
    """Dashes in the middle and lines at the edges, none over a junction or a crossing."""
    camera, reach = scene.camera, scene.reach * 1.5
    others = [r for r in scene.roads if r is not road]
    crossings = [t for t in scene.things if t.kind == "crossing"]

    def clear(point: np.ndarray) -> bool:
        off = all(abs((point - r.origin) @ r.across) > r.width / 2 + 1.2 for r in others)
        return off and all(np.linalg.norm((point - t.centre) @ road.along) > 2.4 for t in crossings)

    for u in np.arange(-reach, reach, 4.0):
        if clear(road.point(u + 1)):
            _fill(canvas, camera.project_ground(road.strip(u, u + 2, -0.07, 0.07)), MARKING)
    for v in (-road.width / 2 + 0.25, road.width / 2 - 0.25):
        for u in np.arange(-reach, reach, 2.0):
            if clear(road.point(u + 1)):
                strip = road.strip(u, u + 2.02, v - 0.05, v + 0.05)
                _fill(canvas, camera.project_ground(strip), MARKING)


def _paint_bays(canvas: np.ndarray, camera: Camera, lot: Thing) -> None:
    for x in np.linspace(-lot.length / 2, lot.length / 2, round(lot.length / 2.6) + 1):
        line = [(x - 0.05, -2.6), (x + 0.05, -2.6), (x + 0.05, 2.6), (x - 0.05, 2.6)]
        _fill(canvas, camera.project_ground(lot.to_world(line)), MARKING)


def _paint_flat(canvas: np.ndarray, ids: np.ndarray, scene: Scene, thing: Thing, thing_id: int) -> np.ndarray:
    """Paint a pool or a crossing; returns its outline, float32[N, 2] pixels."""
    paint = _paint_pool if thing.kind == "pool" else _paint_crossing
    outline = paint(canvas, scene, thing)
    _fill(ids, outline, thing_id, smooth=False)
    return outline.astype(np.float32)


def _paint_pool(canvas: np.ndarray, scene: Scene, thing: Thing) -> np.ndarray:
    rng, camera = np.random.default_rng(thing.seed), scene.camera
    shape = thing.footprint()
    if thing.style == "round":
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        shape = thing.centre + np.stack([np.cos(angle), np.sin(angle)], 1) * thing.length / 2
    rim = thing.centre + (shape - thing.centre) * (1 + 0.8 / thing.length)
    _fill(canvas, camera.project_ground(rim), _jitter((206, 198, 186), rng, 0.05))
    outline = camera.project_ground(shape)
    _fill(canvas, outline, _jitter((70, 168, 196), rng, 0.12))
    water = np.zeros(canvas.shape[:2], np.uint8)
    _fill(water, outline, 1, smooth=False)
    rows, columns = np.nonzero(water)
    ripples = noise(7)[rows % 512, columns % 512, None] * 12
    canvas[rows, columns] = np.clip(canvas[rows, columns] + ripples, 0, 255).astype(np.uint8)
    return outline


def _paint_crossing(canvas: np.ndarray, scene: Scene, thing: Thing) -> np.ndarray:
    rng, camera = np.random.default_rng(thing.seed), scene.camera
    paint = _jitter(MARKING, rng, 0.06)
    stripes = int(thing.width / 0.95)
    pitch = thing.width / (stripes - 0.5)
    a = thing.length / 2
    for i in range(stripes):
        y = -thing.width / 2 + i * pitch
        stripe = [(-a, y), (a, y), (a, y + pitch / 2), (-a, y + pitch / 2)]
        _fill(canvas, camera.project_ground(thing.to_world(stripe)), paint)
    return camera.project_ground(thing.footprint())


def _paint_parts(canvas: np.ndarray, ids: np.ndarray, camera: Camera, parts: list[Face | Blob], thing_id: int) -> None:
    """Paint a thing's faces and blobs on the picture and, as `thing_id`, on the id buffer."""
    for part in parts:
        if isinstance(part, Blob):
            x, y = _fixed_point(camera.project(part.centre[None])[0])
            radius = camera.focal * part.radius / float(camera.depth(part.centre))
            size = max(1, round(radius * (1 << SHIFT)))
            cv2.circle(canvas, (int(x), int(y)), size, part.colour, -1, cv2.LINE_AA, SHIFT)
            cv2.circle(ids, (int(x), int(y)), size, thing_id, -1, cv2.LINE_8, SHIFT)
        else:
            pixels = camera.project(part.points)
            _fill(canvas, pixels, part.colour)
            _fill(ids, pixels, thing_id, smooth=False)


# -- order, outlines, shadow -------------------------------------------------------------------
def _shaded_parts(scene: Scene, index: int) -> list[Face | Blob]:
    """A thing's faces, dimmed if a taller thing's shadow lies on its middle."""
    thing = scene.things[index]
    taller = (t for t in scene.things if t.height > thing.height + 0.5 and t is not thing)
    point = (float(thing.x), float(thing.y))
    dim = any(cv2.pointPolygonTest(_shadow(scene, t).astype(np.float32), point, False) > 0 for t in taller)
    return model(thing, scene.camera, scene.light, 0.68 if dim else 1.0)


def _extent(camera: Camera, parts: list[Face | Blob]) -> np.ndarray:
    """Pixels of the corners of faces and rims of blobs, float32[N, 2]; their hull is the thing's outline."""
    faces = [p.points for p in parts if isinstance(p, Face)]
    right, up, _ = camera.axes
    corners = [
        b.centre + b.radius * (c * right + s * up)
        for b in parts
        if isinstance(b, Blob)
        for c, s in ((1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7))
    ]
    points = np.concatenate([*faces, np.array(corners).reshape(-1, 3)])
    return camera.project(points).astype(np.float32)


def _painting_order(scene: Scene, points: dict[int, np.ndarray]) -> list[int]:
    """Painter's order of the standing things.

    Footprints are disjoint rectangles, so a line separates any two of them and the one on the
    camera's side of it cannot be hidden by the other.
    """
    eye = scene.camera.position[:2]
    boxes = {i: (p.min(axis=0), p.max(axis=0)) for i, p in points.items()}
    depth = {i: float(np.linalg.norm(scene.things[i].centre - eye)) for i in points}
    before: dict[int, set[int]] = {i: set() for i in points}  # what must be painted before i
    remaining = sorted(points, key=lambda i: -depth[i])
    for k, i in enumerate(remaining):
        for j in remaining[k + 1 :]:
            apart = (boxes[i][0] > boxes[j][1]).any() or (boxes[j][0] > boxes[i][1]).any()
            if not apart:
                if _is_nearer(scene.things[i], scene.things[j], eye):
                    before[i].add(j)
                else:
                    before[j].add(i)
    order: list[int] = []
    while remaining:
        # a cycle, which three long things can form, is broken at the farthest
        chosen = next((i for i in remaining if not before[i] & set(remaining)), remaining[0])
        remaining.remove(chosen)
        order.append(chosen)
    return order


def _is_nearer(a: Thing, b: Thing, eye: np.ndarray) -> bool:
    """Whether `a` lies on the camera's side of the line that separates the footprints by the widest gap."""
    pa, pb = a.footprint(), b.footprint()
    best, nearer = -np.inf, False
    for angle in (a.heading, a.heading + np.pi / 2, b.heading, b.heading + np.pi / 2):
        axis = np.array([np.cos(angle), np.sin(angle)])
        ra, rb, e = pa @ axis, pb @ axis, eye @ axis
        for low, high, a_low in ((ra, rb, True), (rb, ra, False)):
            gap = high.min() - low.max()
            if gap > best:
                best = gap
                nearer = bool((e < (high.min() + low.max()) / 2) == a_low)
    return nearer


def _shadow(scene: Scene, thing: Thing) -> np.ndarray:
    """The shadow on the ground, float[N, 2] metres."""
    low = 0.0
    base = thing.footprint()
    if thing.kind == "tree":
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        base = thing.centre + np.stack([np.cos(angle), np.sin(angle)], 1) * thing.length * 0.48
        low = thing.height - thing.length * 0.9
    shifts = [scene.light.shadow_shift(z) for z in (max(low, 0.0), thing.height)]
    points = np.concatenate([base + shift for shift in shifts])
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(float)


def _shadow_mask(scene: Scene) -> np.ndarray:
    """Ground in shadow: float32[H, W], 0 to 1 with soft edges."""
    camera = scene.camera
    mask = np.zeros((camera.height, camera.width), np.uint8)
    for thing in scene.things:
        if _is_standing(thing):
            outline = camera.project_ground(_shadow(scene, thing)).astype(np.float32)
            _fill(mask, cv2.convexHull(outline)[:, 0], 255)
    return cv2.GaussianBlur(mask, (0, 0), 1.2).astype(np.float32) / 255


def _darken(canvas: np.ndarray, shaded: np.ndarray) -> np.ndarray:
    """Shadow is darker and bluer than sunlit ground."""
    gain = 1 - shaded[..., None] * np.array([0.50, 0.47, 0.42], np.float32)
    return (canvas * gain).astype(np.uint8)


# -- texture and sensor ------------------------------------------------------------------------
def _jitter(colour: RGB, rng: np.random.Generator, amount: float) -> RGB:
    """A colour with its brightness and, less, its hue varied."""
    gain = rng.uniform(1 - amount, 1 + amount) * rng.uniform(1 - amount / 3, 1 + amount / 3, 3)
    r, g, b = np.clip(np.array(colour) * gain, 0, 255)
    return (float(r), float(g), float(b))


@lru_cache(maxsize=8)
def noise(seed: int) -> np.ndarray:
    """Tileable noise of several octaves: float32[512, 512], mean 0, deviation 1."""
    rng = np.random.default_rng(seed)
    total = np.zeros((512, 512), np.float32)
    for octave in range(2, 9):
        size = 1 << octave
        grid = rng.standard_normal((size, size)).astype(np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        scale = 512 // size
        large = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += large[2 * scale : 2 * scale + 512, 2 * scale : 2 * scale + 512] * 0.75**octave
    return (total - total.mean()) / total.std()


def _texture(canvas: np.ndarray, material: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Noise fixed to the ground, by material; bare earth is visible where grass is thin; uint8[H, W, 3]."""
    y, x = np.mgrid[: camera.height, : camera.width].astype(np.float32) + 0.5
    ground = camera.ground(np.stack([x, y], axis=-1)).astype(np.float32)
    offset = rng.uniform(0, 512, (3, 2)).astype(np.float32)

    def sample(seed: int, metres: float) -> np.ndarray:
        at = ground * (512 / metres) + offset[seed]
        return cv2.remap(noise(seed), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    coarse, fine, cover = sample(0, 40.0), sample(1, 9.0), sample(2, 25.0)
    bare = np.clip(cover - 0.5, 0, 1)[..., None] * (material == EARTHEN)[..., None] * 0.7
    colour = canvas * (1 - bare) + np.array(EARTH, np.float32) * bare
    strength = TEXTURE[material]
    gain = 1 + strength[..., 0] * coarse + strength[..., 1] * fine
    gain *= _stains(camera, rng)
    return np.clip(colour * gain[..., None], 0, 255).astype(np.uint8)


def _simulate_sensor(canvas: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Lens, light and sensor: blur, uneven light, white balance, haze, noise; uint8[H, W, 3]."""
    height, width = canvas.shape[:2]
    dx, dy = rng.integers(0, 128, 2)
    uneven = 1 + 0.035 * noise(3)[dy : dy + 384, dx : dx + 384]
    uneven = cv2.resize(uneven, (width, height), interpolation=cv2.INTER_LINEAR)
    balance = rng.uniform(0.84, 1.14) * rng.uniform(0.94, 1.06, 3)
    image = canvas * uneven[..., None] * balance.astype(np.float32)
    haze = rng.uniform(0, 0.0012) * camera.altitude
    image = image * (1 - haze) + np.array([186, 192, 200], np.float32) * haze
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.45, 0.85))
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2.5, 6.5))
    return np.clip(image, 0, 255).astype(np.uint8)
