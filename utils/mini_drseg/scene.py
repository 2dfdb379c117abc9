"""Geometry of the synthetic data set: camera, light and the things on a ground plane.

World frame: metres, x east, y north, z up; the camera looks at the origin. Headings of things
are counter-clockwise from x, in radians. Image frame: pixels, x right, y down, (0, 0) the outer
corner of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

VEHICLES = ("car", "van", "truck", "bus")
FLAT_KINDS = ("pool", "crossing")  # painted on the ground, can hide nothing

RGB = tuple[float, float, float]
PALETTE: dict[str, RGB] = {
    "red": (184, 38, 34),
    "blue": (36, 84, 178),
    "green": (44, 122, 66),
    "yellow": (222, 182, 40),
    "white": (228, 228, 224),
    "grey": (132, 134, 138),
    "black": (36, 36, 40),
    "brown": (116, 78, 52),
}

# Ground width seen at the image centre, in metres, at each altitude: the gimbal zooms as the
# drone climbs, so that a car keeps enough pixels.
FOOTPRINT_WIDTH = {30: 24.0, 60: 34.0, 100: 46.0}
ALTITUDE_SHARES = {30: 0.40, 60: 0.35, 100: 0.25}


@dataclass(frozen=True)
class Camera:
    """Pinhole camera above the ground, its optical axis through the world origin.

    Attributes:
        altitude: height above the ground in metres.
        tilt: angle of the optical axis off nadir, radians.
        heading: direction of view on the ground, clockwise from north, radians.
        focal: focal length in pixels.
        width, height: frame in pixels.
    """

    altitude: float
    tilt: float
    heading: float
    focal: float
    width: int
    height: int

    @cached_property
    def axes(self) -> np.ndarray:
        """float[3, 3]: image right, image up and viewing direction as rows."""
        forward = np.array([np.sin(self.heading), np.cos(self.heading)])
        right = [np.cos(self.heading), -np.sin(self.heading), 0.0]
        up = [*(forward * np.cos(self.tilt)), np.sin(self.tilt)]
        view = [*(forward * np.sin(self.tilt)), -np.cos(self.tilt)]
        return np.array([right, up, view])

    @cached_property
    def position(self) -> np.ndarray:
        """float[3]: the optical centre in world metres."""
        return -self.axes[2] * self.altitude / np.cos(self.tilt)

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Distance along the optical axis, float[N, 3] -> float[N] metres."""
        return (points - self.position) @ self.axes[2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points in metres to pixels, float[N, 3] -> float[N, 2]."""
        x, y, z = ((points - self.position) @ self.axes.T).T
        scale = self.focal / np.maximum(z, 1.0)
        return np.stack([self.width / 2 + x * scale, self.height / 2 - y * scale], axis=-1)

    def project_ground(self, points: np.ndarray) -> np.ndarray:
        """Ground points in metres to pixels, float[N, 2] -> float[N, 2]."""
        points = np.asarray(points, float)
        return self.project(np.concatenate([points, np.zeros((len(points), 1))], axis=1))

    def ground(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels to the ground points they show, float[..., 2] -> float[..., 2] metres."""
        right, up, view = self.axes
        x = (pixels[..., 0] - self.width / 2) / self.focal
        y = (pixels[..., 1] - self.height / 2) / self.focal
        # one axis after the other: NumPy is slow where the last dimension is as short as three
        east, north, down = (view[i] + x * right[i] - y * up[i] for i in range(3))
        reach = -self.altitude / down
        return np.stack([self.position[0] + east * reach, self.position[1] + north * reach], axis=-1)

    @cached_property
    def corners(self) -> np.ndarray:
        """float[4, 2]: the ground points seen in the corners of the frame, metres."""
        w, h = self.width, self.height
        return self.ground(np.array([[0, 0], [w, 0], [w, h], [0, h]], float))

    def shows(self, point: np.ndarray, margin: float = 0.05) -> bool:
        """Whether a ground point float[2] lies in the frame, farther from its border than `margin` of its size."""
        x, y = self.project_ground(np.asarray(point)[None])[0] / (self.width, self.height)
        return margin < x < 1 - margin and margin < y < 1 - margin


@dataclass(frozen=True)
class Light:
    """The sun: azimuth counter-clockwise from x and elevation, radians; `ambient` is the share of ambient light."""

    azimuth: float
    elevation: float
    ambient: float

    @cached_property
    def direction(self) -> np.ndarray:
        """float[3]: unit vector towards the sun."""
        c, s = np.cos(self.elevation), np.sin(self.elevation)
        return np.array([c * np.cos(self.azimuth), c * np.sin(self.azimuth), s])

    def shadow_shift(self, height: float) -> np.ndarray:
        """float[2]: from the foot of a point at this height to its shadow on the ground, metres."""
        return -self.direction[:2] / self.direction[2] * height


@dataclass
class Thing:
    """One object: what it is, how it looks and the oriented box that it fills (metres, radians).

    Attributes:
        tags: roles that the planner assigns, such as "on_crossing" or "on_grass".
        seed: of the random details in its drawing.
    """

    kind: str
    colour: str
    x: float
    y: float
    heading: float
    length: float
    width: float
    height: float
    style: str = ""
    tags: frozenset[str] = frozenset()
    seed: int = 0

    @property
    def centre(self) -> np.ndarray:
        """float[2], metres."""
        return np.array([self.x, self.y])

    def to_world(self, local: np.ndarray) -> np.ndarray:
        """Points in the thing's own frame (x along its length) to the world, float[N, 2|3] -> float[N, 2|3] metres."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        local = np.asarray(local, float)
        world = local.copy()
        world[:, 0] = self.x + c * local[:, 0] - s * local[:, 1]
        world[:, 1] = self.y + s * local[:, 0] + c * local[:, 1]
        return world

    def footprint(self, margin: float = 0.0) -> np.ndarray:
        """float[4, 2]: corners on the ground, counter-clockwise, metres."""
        return self.to_world(rectangle(self.length / 2 + margin, self.width / 2 + margin))


@dataclass(frozen=True)
class Road:
    """A straight two-lane road: a point on its axis, its heading and its widths in metres."""

    origin: np.ndarray
    heading: float
    width: float
    pavement: float

    @property
    def along(self) -> np.ndarray:
        """float[2]: unit vector of the axis."""
        return np.array([np.cos(self.heading), np.sin(self.heading)])

    @property
    def across(self) -> np.ndarray:
        """float[2]: unit vector to the left of the axis."""
        return np.array([-np.sin(self.heading), np.cos(self.heading)])

    def point(self, u: float, v: float = 0.0) -> np.ndarray:
        """float[2]: the point u metres along the axis and v to its left."""
        return self.origin + u * self.along + v * self.across

    def strip(self, u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
        """float[4, 2]: corners of the rectangle between these distances, metres."""
        return np.array([self.point(u, v) for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))])


@dataclass
class Scene:
    """All that is drawn in one picture. Polygons are float[N, 2] ground metres."""

    camera: Camera
    light: Light
    soil: str  # the ground: "grass", "dry" or "soil"
    roads: list[Road]
    lots: list[Thing] = field(default_factory=list)  # parking areas
    patches: list[Thing] = field(default_factory=list)  # coloured clutter on the ground
    things: list[Thing] = field(default_factory=list)

    @property
    def reach(self) -> float:
        """Radius in metres that holds all the ground the frame shows."""
        return float(np.linalg.norm(self.camera.corners, axis=1).max())


def rectangle(half_length: float, half_width: float) -> np.ndarray:
    """float[4, 2]: a rectangle about the origin, counter-clockwise."""
    a, b = half_length, half_width
    return np.array([[-a, -b], [a, -b], [a, b], [-a, b]], float)


def draw_camera(rng: np.random.Generator) -> Camera:
    """A random camera: altitude, nadir or oblique view, lens and frame."""
    altitude = int(rng.choice(list(ALTITUDE_SHARES), p=list(ALTITUDE_SHARES.values())))
    oblique = rng.random() < 0.55
    tilt = np.deg2rad(rng.uniform(25, 45) if oblique else rng.uniform(0, 5))
    frame = rng.choice(3, p=[0.85, 0.08, 0.07])
    width, height = ((512, 384), (512, 512), (448, 512))[frame]
    footprint = FOOTPRINT_WIDTH[altitude] * rng.uniform(0.85, 1.15)
    focal = width * altitude / np.cos(tilt) / footprint
    return Camera(altitude, tilt, rng.uniform(0, 2 * np.pi), focal, width, height)


def draw_light(rng: np.random.Generator) -> Light:
    """A random sun, from a clear morning to a hazy noon."""
    elevation = np.deg2rad(rng.uniform(38, 68))
    return Light(rng.uniform(0, 2 * np.pi), elevation, rng.uniform(0.45, 0.65))
