"""What a rendered picture shows of each thing: its visible pixels, their outline, whether it can be a target."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.mini_drseg.render import Picture
from utils.mini_drseg.scene import Camera, Scene, Thing

MIN_VISIBLE = 0.40  # share of a target that must be visible
MIN_IN_FRAME = 0.50  # share of a target that must lie inside the frame
AREA_SHARE = (0.0022, 0.13)  # smallest and largest target, share of the frame
MIN_PIXELS = 10  # visible pixels from which a thing counts as visible
UPSCALE = 4  # contours are traced on an enlarged mask, so that they follow pixel edges


@dataclass
class VisibleThing:
    """What a picture shows of a thing.

    Attributes:
        index: its index in `scene.things`.
        thing: the thing itself.
        area: visible pixels.
        centre: float[2], centroid of the visible pixels.
        box: visible extent x0, y0, x1, y1 in pixels.
        polygons: outline of the visible part, each [x, y, x, y, ...]; empty if not a target.
    """

    index: int
    thing: Thing
    area: int
    centre: np.ndarray
    box: tuple[float, float, float, float]
    polygons: list[list[float]]

    @property
    def is_target(self) -> bool:
        """Whether enough of it is visible for a question about it."""
        return bool(self.polygons)


def visible_things(scene: Scene, picture: Picture) -> list[VisibleThing]:
    """All things of which the picture shows some pixels, in the scene's order, with polygons for possible targets."""
    visible = []
    areas = np.bincount(picture.ids.ravel(), minlength=len(scene.things) + 1)
    for index, thing in enumerate(scene.things):
        area = int(areas[index + 1])
        if area < MIN_PIXELS:
            continue
        mask = picture.ids == index + 1
        x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1))
        crop = mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        rows, columns = np.nonzero(crop)
        centre = np.array([columns.mean() + x[0] + 0.5, rows.mean() + y[0] + 0.5])
        fair = is_fair_target(picture.outlines[index], area, scene.camera)
        polygons = trace_polygons(crop, (int(x[0]), int(y[0]))) if fair else []
        visible.append(VisibleThing(index, thing, area, centre, box, polygons))
    return visible


def is_fair_target(outline: np.ndarray, area: int, camera: Camera) -> bool:
    """Whether a thing of which `area` pixels are visible can be asked for: neither too small, too large nor too hidden.

    Args:
        outline: float32[N, 2], the convex outline of the whole thing in pixels, as if nothing hid it.
    """
    frame = np.array([[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]], np.float32)
    whole = cv2.contourArea(outline)
    inside, _ = cv2.intersectConvexConvex(cv2.convexHull(outline), frame)
    share = area / (camera.width * camera.height)
    fits = AREA_SHARE[0] <= share <= AREA_SHARE[1]
    return fits and area >= MIN_VISIBLE * whole and inside >= MIN_IN_FRAME * whole


def trace_polygons(mask: np.ndarray, origin: tuple[int, int] = (0, 0)) -> list[list[float]]:
    """Outer contours of a mask, bool[H, W], along the edges of its pixels.

    Returns:
        Polygons [x, y, x, y, ...] in pixels, shifted by `origin`; none if the area that they cover differs
        from the mask's by more than 6 % (it has holes).
    """
    large = np.kron(np.pad(mask, 1), np.ones((UPSCALE, UPSCALE), bool)).astype(np.uint8)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons, covered = [], 0.0
    for contour in contours:
        points = cv2.approxPolyDP(contour, 0.5 * UPSCALE, True)[:, 0].astype(float)
        points = (points + 0.5) / UPSCALE - 1
        # contours pass half a small pixel inside the edge: move them out to it
        points = np.clip(np.round(points * 2) / 2, 0, mask.shape[::-1])
        area = cv2.contourArea(points.astype(np.float32))
        if len(points) >= 3 and area >= 6:
            polygons.append((points + origin).ravel().tolist())
            covered += area
    return polygons if abs(covered - mask.sum()) <= 0.06 * mask.sum() else []
