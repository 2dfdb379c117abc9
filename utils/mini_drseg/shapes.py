"""Solid shapes of things: shaded faces and leaf clusters, in painter's order within a thing.

Colours are RGB, 0 to 255. The local frame of a thing has x along its heading, y to its left. In the functions
that build a shape `m` is the modeller, `t` its thing, `a` and `b` half its length and width, `h` its height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.mini_drseg.scene import PALETTE, RGB, Camera, Light, Thing, rectangle

GLASS: RGB = (38, 48, 60)
RUBBER: RGB = (24, 24, 26)
LEAVES = {"green": (62, 104, 44), "yellow": (206, 160, 40)}


@dataclass
class Face:
    """A flat convex polygon, float[N, 3] world metres, and its shaded colour."""

    points: np.ndarray
    colour: RGB


@dataclass
class Blob:
    """A ball of leaves (or a head): centre float[3] and radius in metres, and its colour."""

    centre: np.ndarray
    radius: float
    colour: RGB


class Modeller:
    """Collects the faces of one thing that are turned to the camera, shaded by the sun.

    Args:
        dim: brightness; under 1 for a thing in another's shadow.
    """

    def __init__(self, thing: Thing, camera: Camera, light: Light, dim: float) -> None:
        self.thing, self.camera, self.light, self.dim = thing, camera, light, dim
        self.rng = np.random.default_rng(thing.seed)
        self.parts: list[Face | Blob] = []
        self.level = light.ambient + (1 - light.ambient) * light.direction[2]

    def shade(self, colour: RGB, normal: np.ndarray) -> RGB:
        """Lambert shading with ambient light; a level face keeps its colour."""
        sun = max(0.0, float(normal @ self.light.direction))
        gain = self.dim * (self.light.ambient + (1 - self.light.ambient) * sun) / self.level
        r, g, b = colour
        return (min(r * gain, 255), min(g * gain, 255), min(b * gain, 255))

    def face(self, local: list | np.ndarray, colour: RGB) -> None:
        """Add a face, float[N, 3] local metres, counter-clockwise seen from outside."""
        points = self.thing.to_world(np.asarray(local, float))
        a, b = points[1] - points[0], points[2] - points[1]
        normal = np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
        if normal @ (self.camera.position - points[0]) <= 0:
            return
        normal /= np.sqrt(normal @ normal) + 1e-9
        self.parts.append(Face(points, self.shade(colour, normal)))

    def level_face(self, x0: float, x1: float, y0: float, y1: float, z: float, c: RGB) -> None:
        """Add a level rectangle at height z."""
        self.face([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], c)

    def prism(
        self,
        base: np.ndarray,
        z0: float,
        z1: float,
        side: RGB,
        top: RGB | None,
        cap: np.ndarray | None = None,
    ) -> None:
        """Add a prism between the heights `z0` and `z1` in metres.

        Args:
            base: float[N, 2], its outline in local metres, counter-clockwise.
            side: colour of the sides.
            top: colour of the upper face; None leaves that face out.
            cap: float[N, 2], the upper outline where the prism tapers; `base` by default.
        """
        cap = base if cap is None else cap
        for i in range(len(base)):
            j = (i + 1) % len(base)
            self.face([(*base[i], z0), (*base[j], z0), (*cap[j], z1), (*cap[i], z1)], side)
        if top is not None:
            self.face([(*p, z1) for p in cap], top)

    def box(self, x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, c: RGB) -> None:
        """Add an upright box of one colour."""
        base = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        self.prism(base, z0, z1, c, c)


def model(thing: Thing, camera: Camera, light: Light, dim: float = 1.0) -> list[Face | Blob]:
    """The faces and blobs of a standing thing that are turned to the camera, to be painted in this order.

    Args:
        dim: brightness; under 1 for a thing in another's shadow.
    """
    modeller = Modeller(thing, camera, light, dim)
    SHAPES[thing.kind](modeller, PALETTE[thing.colour])
    return modeller.parts


def _scaled(colour: RGB, gain: float) -> RGB:
    return (colour[0] * gain, colour[1] * gain, colour[2] * gain)


def _octagon(a: float, b: float, cut: float) -> np.ndarray:
    """float[8, 2]: a rectangle of half sizes a, b with its corners cut, counter-clockwise."""
    c = cut
    return np.array(
        [[-a + c, -b], [a - c, -b], [a, -b + c], [a, b - c],
         [a - c, b], [-a + c, b], [-a, b - c], [-a, -b + c]]
    )  # fmt: skip


def _lamps(m: Modeller, a: float, b: float, z: float) -> None:
    """Headlights and tail lights at the corners of a body's top."""
    for y in (-b + 0.18, b - 0.48):
        m.level_face(a - 0.32, a - 0.06, y, y + 0.3, z, (236, 234, 214))
        m.level_face(-a + 0.05, -a + 0.2, y, y + 0.3, z, (150, 22, 20))


def _car(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b = t.length / 2, t.width / 2
    rear = float(m.rng.choice([0.42, 0.47, 0.33])) * t.length  # notchback, estate, saloon
    front = float(m.rng.uniform(0.12, 0.2)) * t.length
    m.prism(_octagon(a - 0.05, b - 0.04, 0.2), 0.1, 0.35, RUBBER, None)
    m.prism(_octagon(a, b, 0.22), 0.32, 0.86, _scaled(paint, 0.92), _scaled(paint, 0.97))
    _lamps(m, a, b, 0.87)
    glass = rectangle(1, b - 0.08)
    glass[:, 0] = [-rear, front, front, -rear]
    roof = rectangle(1, b - 0.3)
    roof[:, 0] = [-rear + 0.45, front - 0.7, front - 0.7, -rear + 0.45]
    m.prism(glass, 0.86, t.height, GLASS, paint, cap=roof)
    if m.rng.random() < 0.25:  # a glass roof panel
        m.level_face(front - 1.5, front - 0.85, -b + 0.5, b - 0.5, t.height, GLASS)


def _van(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b, h = t.length / 2, t.width / 2, t.height
    m.prism(_octagon(a - 0.05, b - 0.04, 0.15), 0.1, 0.4, RUBBER, None)
    m.prism(_octagon(a, b, 0.15), 0.38, 1.1, _scaled(paint, 0.93), _scaled(paint, 0.97))
    _lamps(m, a, b, 1.11)
    front = a - 0.75  # the foot of the windscreen
    base = rectangle(a, b - 0.03)
    base[1:3, 0] = front
    cap = rectangle(a - 0.08, b - 0.14)
    cap[1:3, 0] = front - 0.75
    m.prism(base, 1.1, h, _scaled(paint, 0.95), paint, cap=cap)
    y0, y1 = b - 0.12, b - 0.2
    m.face([(front, -y0, 1.15), (front, y0, 1.15), (front - 0.7, y1, h - 0.06),
            (front - 0.7, -y1, h - 0.06)], GLASS)  # fmt: skip
    for x in np.arange(-a + 0.7, front - 1.2, 0.9):  # ribs of the roof
        m.level_face(x, x + 0.08, -b + 0.25, b - 0.25, h, _scaled(paint, 0.8))
    if t.style == "ambulance":
        m.level_face(-a + 0.9, -a + 2.5, -0.22, 0.22, h + 0.01, (204, 24, 24))
        m.level_face(-a + 1.48, -a + 1.92, -0.8, 0.8, h + 0.01, (204, 24, 24))
        m.box(front - 1.25, front - 0.95, -0.6, 0.6, h, h + 0.15, (30, 70, 230))


def _truck(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b, h = t.length / 2, t.width / 2, t.height
    m.box(-a + 0.1, a - 0.1, -b + 0.1, b - 0.1, 0.3, 0.7, RUBBER)
    cab = a - 1.9
    parts = [
        lambda: m.box(-a, cab - 0.35, -b, b, 0.7, h, paint),
        lambda: _truck_cab(m, cab, a, b - 0.06, _scaled(paint, 0.85)),
    ]
    facing = m.thing.to_world(np.array([[cab - 0.2, 0.0, 0.0], [cab + 0.8, 0.0, 0.0]]))
    toward = (m.camera.position - facing[0]) @ (facing[1] - facing[0])
    for draw in parts if toward > 0 else parts[::-1]:  # the nearer part last
        draw()


def _truck_cab(m: Modeller, x0: float, x1: float, b: float, paint: RGB) -> None:
    m.box(x0, x1, -b, b, 0.5, 1.4, paint)
    base, cap = rectangle(1, b), rectangle(1, b - 0.08)
    base[:, 0] = [x0, x1, x1, x0]
    cap[:, 0] = [x0, x1 - 0.45, x1 - 0.45, x0]
    m.prism(base, 1.4, 2.35, _scaled(paint, 0.95), paint, cap=cap)
    m.face([(x1, -b + 0.1, 1.42), (x1, b - 0.1, 1.42), (x1 - 0.42, b - 0.16, 2.3),
            (x1 - 0.42, -b + 0.16, 2.3)], GLASS)  # fmt: skip


def _bus(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b, h = t.length / 2, t.width / 2, t.height
    m.prism(_octagon(a - 0.05, b - 0.04, 0.1), 0.15, 0.4, RUBBER, None)
    m.prism(_octagon(a, b, 0.15), 0.4, 1.2, _scaled(paint, 0.92), None)
    m.prism(_octagon(a, b, 0.15), 1.2, 2.3, GLASS, None)
    m.prism(_octagon(a, b, 0.15), 2.3, h, _scaled(paint, 0.95), paint)
    for x in np.linspace(-a + 1.2, a - 1.2, 6):  # posts between the windows
        for y, turn in ((b, 1), (-b, -1)):
            quad = [(x + 0.12, y, 1.2), (x, y, 1.2), (x, y, 2.3), (x + 0.12, y, 2.3)]
            m.face(quad[::turn], _scaled(paint, 0.9))
    for x, size in ((-a + 1.6, 1.6), (0.2, 0.9), (a - 2.6, 1.2)):  # air conditioning, hatches
        m.box(x, x + size, -0.65, 0.65, h, h + 0.18, (190, 192, 194))


def _container(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b, h = t.length / 2, t.width / 2, t.height
    m.box(-a, a, -b, b, 0, h, paint)
    for x in np.arange(-a + 0.3, a, 0.6):  # corrugation
        m.level_face(x, x + 0.22, -b + 0.1, b - 0.1, h, _scaled(paint, 0.82))
        for y, turn in ((b, 1), (-b, -1)):
            quad = [(x + 0.22, y, 0.1), (x, y, 0.1), (x, y, h - 0.1), (x + 0.22, y, h - 0.1)]
            m.face(quad[::turn], _scaled(paint, 0.8))


def _stall(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b, h = t.length / 2, t.width / 2, t.height
    m.box(-a + 0.4, a - 0.4, -b + 0.4, b - 0.4, 0, 0.9, (150, 116, 80))
    stripes = 6
    edges = np.linspace(-a, a, stripes + 1)
    for i, (x0, x1) in enumerate(zip(edges, edges[1:], strict=False)):
        cloth = paint if i % 2 == 0 else (232, 230, 224)
        m.face([(x0, 0, h), (x0, -b, h - 0.5), (x1, -b, h - 0.5), (x1, 0, h)], cloth)
        m.face([(x1, 0, h), (x1, b, h - 0.5), (x0, b, h - 0.5), (x0, 0, h)], cloth)


def _building(m: Modeller, paint: RGB) -> None:
    t = m.thing
    a, b = t.length / 2, t.width / 2
    wall = tuple(m.rng.uniform((170, 160, 140), (228, 218, 206)))
    pitched = t.style == "gable"
    eaves = t.height - (0.28 * t.width if pitched else 0.0)
    m.prism(rectangle(a, b), 0, eaves, wall, None)
    _windows(m, a, b, eaves)
    if pitched:
        _gable(m, a, b, eaves, paint, wall)
    else:
        _flat_roof(m, a, b, t.height, paint)


def _windows(m: Modeller, a: float, b: float, top: float) -> None:
    for floor in range(max(1, int(top // 2.6))):
        z0 = 0.9 + floor * 2.6
        z1 = min(z0 + 1.2, top - 0.2)
        for x in np.arange(-a + 0.7, a - 1.2, 1.9):
            for y, turn in ((b + 0.01, 1), (-b - 0.01, -1)):
                quad = [(x + 1, y, z0), (x, y, z0), (x, y, z1), (x + 1, y, z1)]
                m.face(quad[::turn], GLASS)
        for y in np.arange(-b + 0.7, b - 1.2, 1.9):
            for x, turn in ((a + 0.01, 1), (-a - 0.01, -1)):
                quad = [(x, y, z0), (x, y + 1, z0), (x, y + 1, z1), (x, y, z1)]
                m.face(quad[::turn], GLASS)


def _gable(m: Modeller, a: float, b: float, eaves: float, paint: RGB, wall: RGB) -> None:
    top = m.thing.height
    for x, turn in ((a, 1), (-a, -1)):
        m.face([(x, -b, eaves), (x, b, eaves), (x, 0, top)][::turn], wall)
    e = b + 0.25  # the roof stands over the walls
    low = eaves - 0.25 * (top - eaves) / b
    for s in (1, -1):
        slope = [(-a, s * e, low), (-a, 0, top), (a, 0, top), (a, s * e, low)]
        m.face(slope[::s], paint)
        for share in (0.25, 0.5, 0.75):  # rows of tiles
            y, z = s * e * share, top + (low - top) * share
            y1, z1 = y + s * 0.1, z + (low - top) / e * 0.1
            row = [(-a, y1, z1), (-a, y, z), (a, y, z), (a, y1, z1)]
            m.face(row[::s], _scaled(paint, 0.82))


def _flat_roof(m: Modeller, a: float, b: float, h: float, paint: RGB) -> None:
    m.level_face(-a, a, -b, b, h, _scaled(paint, 0.8))
    m.level_face(-a + 0.25, a - 0.25, -b + 0.25, b - 0.25, h, paint)
    if m.thing.style == "solar":
        for x in np.arange(-a + 0.6, a - 1.4, 1.25):
            for y in np.arange(-b + 0.6, b - 1.9, 1.85):
                m.level_face(x, x + 1.05, y, y + 1.65, h + 0.05, (22, 30, 66))
                m.level_face(x + 0.5, x + 0.55, y, y + 1.65, h + 0.06, (120, 130, 160))
        return
    for _ in range(int(m.rng.integers(1, 4))):
        x, y = m.rng.uniform((-a + 0.5, -b + 0.5), (a - 1.5, b - 1.5))
        m.box(x, x + 0.9, y, y + 0.8, h, h + 0.7, (176, 178, 180))


def _tree(m: Modeller, paint: RGB) -> None:
    del paint  # leaves have their own colours
    t, rng = m.thing, m.rng
    radius = t.length / 2
    centre = np.array([t.x, t.y, t.height - radius * 0.9])
    tint = np.array(LEAVES[t.colour]) * rng.uniform(0.8, 1.15) * m.dim
    m.parts.append(Blob(centre * (1, 1, 0.45), 0.16, (84, 64, 46)))
    m.parts.append(Blob(centre, radius * 0.82, tuple(tint * 0.55)))
    count = 46
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    offsets = directions * rng.uniform(0.45, 0.8, (count, 1)) * radius
    order = np.argsort(offsets @ -m.camera.axes[2])  # leaves nearer the camera last
    for offset in offsets[order]:
        lit = 0.72 + 0.45 * float(offset @ m.light.direction) / radius
        colour = tint * lit * rng.uniform(0.85, 1.15)
        m.parts.append(Blob(centre + offset, radius * rng.uniform(0.16, 0.3), tuple(colour)))


def _person(m: Modeller, paint: RGB) -> None:
    t = m.thing
    m.prism(_octagon(0.16, 0.2, 0.1), 0.0, 0.85, (44, 48, 66), None)
    m.prism(_octagon(0.18, 0.28, 0.1), 0.85, t.height - 0.3, paint, paint)
    head = np.array([t.x, t.y, t.height - 0.12])
    m.parts.append(Blob(head, 0.13, _scaled((150, 112, 84), m.dim)))


SHAPES = {
    "car": _car,
    "van": _van,
    "truck": _truck,
    "bus": _bus,
    "container": _container,
    "stall": _stall,
    "building": _building,
    "tree": _tree,
    "person": _person,
}
