"""Masks of a GeoTIFF as GeoJSON: outlines in longitude and latitude, areas in square metres.

rasterio, which is optional, reads where the picture lies, traces outlines and projects them.

Masks lie in the picture as viewers show it, but a GeoTIFF places its pixels as they are stored. So where there is
an orientation tag, `Georeference.transform` turns corners of the upright picture back first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from model.inputs.picture_files import PictureHeader, header_of, opened_picture
from utils.runtime.errors import UserError, first_line

# GeoKeyDirectory; ModelPixelScale, ModelTiepoint and ModelTransformation; RPCCoefficient
GEOREFERENCE_TAGS = (34735, 33550, 33922, 34264, 50844)
LONGEST_EDGE = 256  # pixels: a straight line of the picture is curved on the globe, 0.2 pixels in 256 of 150 m
DECIMALS = 9  # of a degree: 0.1 mm
WGS84 = "EPSG:4326"  # rasterio gives it with the longitude first, as RFC 7946 wants it
Ring = np.ndarray  # float[N, 2], closed: the last point is the first
Polygon = list[Ring]  # the outline, then holes


@dataclass(frozen=True)
class Georeference:
    """Where a picture lies.

    Args:
        name: of the file, for errors.
        crs: its coordinate reference system (rasterio.crs.CRS).
        transform: (a, b, c, d, e, f); the corner (x, y) of the upright picture's pixels is at
            (a x + b y + c, d x + e y + f) of the system.
        height: of the upright picture, in pixels.
        width: likewise.
    """

    name: str
    crs: Any
    transform: tuple[float, ...]
    height: int
    width: int


def is_georeferenced(path: Path) -> bool:
    """Whether a picture is a TIFF with tags that say where it lies, be they sufficient or not; needs no rasterio.

    Raises:
        UserError: it cannot be opened as a picture.
    """
    with opened_picture(path) as picture:
        return picture.format == "TIFF" and any(tag in picture.tag_v2 for tag in GEOREFERENCE_TAGS)


def read_georeference(path: Path) -> Georeference:
    """Where a GeoTIFF lies, its orientation tag taken into account.

    Raises:
        UserError: rasterio is not installed; the file cannot be read; or it does not say where its pixels lie: no
            coordinate reference system, or only ground control points or RPCs, which need the ground's height.
    """
    rasterio = _rasterio()
    with opened_picture(path) as picture:
        header = header_of(picture)
    with _errors_named(str(path)), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # told below
        with rasterio.open(path.absolute()) as file:
            crs, stored, (points, _), rpcs = file.crs, file.transform, file.gcps, file.rpcs
    if stored.is_identity:
        if points or rpcs:
            what = f"{len(points)} ground control points" if points else "rational polynomial coefficients (RPCs)"
            raise UserError(
                f"{path}: is placed only by {what}; orthorectify it first (gdalwarp -t_srs EPSG:… {path} ortho.tif)"
            )
        raise UserError(f"{path}: its tags do not say where its pixels lie; write its position (gdal_edit.py -a_ullr)")
    if crs is None:
        raise UserError(
            f"{path}: has no coordinate reference system, so its numbers are no place; write the one that it was made "
            "in (gdal_edit.py -a_srs EPSG:…)"
        )
    if stored.is_degenerate:
        raise UserError(f"{path}: its pixels have no size on the ground; write its position (gdal_edit.py -a_ullr)")
    transform = np.reshape([*stored], (3, 3)) @ _stored_from_upright(header)
    height, width = header.size(upright=True)
    return Georeference(str(path), crs, tuple(transform[:2].ravel().tolist()), height, width)


def geojson_features(
    georeference: Georeference, masks: np.ndarray, properties: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Masks as a FeatureCollection of RFC 7946: a Feature a mask, its geometry a MultiPolygon in WGS 84.

    Pixels that touch at a corner alone are polygons of their own. Of an empty mask the geometry is null.

    Args:
        georeference: of the picture.
        masks: bool[K, H, W], in the upright picture.
        properties: of each; `area_px` and `area_m2` are added. The area is that on the ellipsoid, at height zero and
            level, whatever units or distortion the picture's own system has.

    Raises:
        ValueError: the masks have another size than the picture, or there are not as many properties.
        UserError: rasterio is not installed, or the picture lies where its system has no places.
    """
    if masks.shape[1:] != (georeference.height, georeference.width):
        size = (georeference.height, georeference.width)
        raise ValueError(f"the masks have {masks.shape[1:]} pixels, the picture {size}")
    features = []
    for mask, given in zip(masks, properties, strict=True):
        polygons = [
            [_on_ground(georeference, ring) for ring in polygon] for polygon in _outlines(mask.astype(np.uint8))
        ]
        measured = {**given, "area_px": int(np.count_nonzero(mask)), "area_m2": _square_metres(georeference, polygons)}
        geometry = _multi_polygon(georeference, polygons) if polygons else None
        features.append({"type": "Feature", "geometry": geometry, "properties": measured})
    return {"type": "FeatureCollection", "features": features}


def geojson_bytes(collection: dict[str, Any]) -> bytes:
    """GeoJSON as a file's content."""
    text = json.dumps(collection, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _rasterio() -> ModuleType:
    try:
        import rasterio
        import rasterio.errors
        import rasterio.features
        import rasterio.warp
    except ImportError as error:
        raise UserError(f"GeoJSON needs rasterio ({first_line(error)}); install it: pip install rasterio") from error
    return rasterio


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Raises UserError, naming the file, where GDAL or PROJ fail."""
    from rasterio._err import CPLE_BaseError  # which rasterio.warp lets through
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise UserError(f"{name}: its georeference cannot be used ({first_line(error)}); write it again") from error


def _stored_from_upright(header: PictureHeader) -> np.ndarray:
    """float[3, 3], from corners (x, y, 1) of the upright picture's pixels to (column, row, 1) as they are stored."""
    height, width = header.size(upright=True)
    back = np.eye(3)
    if header.orientation >= 5:
        back = back[[1, 0, 2]]
    if header.orientation in (3, 4, 7, 8):
        back = back @ [[1, 0, 0], [0, -1, height], [0, 0, 1]]
    if header.orientation in (2, 3, 6, 7):
        back = back @ [[-1, 0, width], [0, 1, 0], [0, 0, 1]]
    return back


def _outlines(mask: np.ndarray) -> list[Polygon]:
    """Polygons of uint8[H, W] with holes, corners (x, y) of pixels, no edge longer than LONGEST_EDGE."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return []
    part = np.ascontiguousarray(mask[top : top + height, left : left + width])
    shapes = _rasterio().features.shapes(part, mask=part, connectivity=4)
    return [[_short_edges(np.array(ring) + (left, top)) for ring in shape["coordinates"]] for shape, _ in shapes]


def _short_edges(ring: Ring) -> Ring:
    """A ring of pixel corners with points between those that are further apart than LONGEST_EDGE."""
    steps = np.diff(ring, axis=0)
    counts = np.maximum(1, np.ceil(np.abs(steps).max(axis=1) / LONGEST_EDGE)).astype(int)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, … along each edge
    points = np.repeat(ring[:-1], counts, axis=0) + np.repeat(steps / counts[:, None], counts, axis=0) * place[:, None]
    return np.concatenate([points, ring[:1]])


def _on_ground(georeference: Georeference, ring: Ring) -> Ring:
    """A ring of pixel corners in the picture's system."""
    a, b, c, d, e, f = georeference.transform
    return ring @ np.array([[a, d], [b, e]]) + (c, f)


def _square_metres(georeference: Georeference, polygons: list[Polygon]) -> float:
    """The area on the WGS 84 ellipsoid, by an equal-area projection about the middle of the polygons."""
    if not polygons:
        return 0.0
    corners = np.concatenate([outline for outline, *_ in polygons])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    longitude, latitude = _projected(georeference, [[middle[None]]], WGS84)[0][0][0]
    equal_area = f"+proj=laea +lat_0={latitude:.9f} +lon_0={longitude:.9f} +datum=WGS84 +units=m +no_defs"
    projected = _projected(georeference, polygons, equal_area)
    return sum(abs(_signed_area(outline)) - sum(abs(_signed_area(hole)) for hole in holes)
               for outline, *holes in projected)  # fmt: skip


def _multi_polygon(georeference: Georeference, polygons: list[Polygon]) -> dict[str, Any]:
    """GeoJSON in longitude and latitude, outlines counterclockwise and holes clockwise."""
    turned = [
        [ring if (_signed_area(ring) > 0) == (place == 0) else ring[::-1] for place, ring in enumerate(polygon)]
        for polygon in _on_globe(georeference, polygons)
    ]
    coordinates = [[ring.round(DECIMALS).tolist() for ring in polygon] for polygon in turned]
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _on_globe(georeference: Georeference, polygons: list[Polygon]) -> list[Polygon]:
    """Polygons in longitude and latitude, those that cross the antimeridian cut there."""
    found = _projected(georeference, polygons, WGS84)
    if not any(np.ptp(outline[:, 0]) > 180 for outline, *_ in found):
        return found
    shape = {"type": "MultiPolygon", "coordinates": polygons}
    with _errors_named(georeference.name):  # which cuts, but takes ten times as long
        cut = _rasterio().warp.transform_geom(georeference.crs, WGS84, shape, antimeridian_cutting=True)
    coordinates = [cut["coordinates"]] if cut["type"] == "Polygon" else cut["coordinates"]
    return [[np.array(ring) for ring in polygon] for polygon in coordinates]


def _projected(georeference: Georeference, polygons: list[Polygon], system: str) -> list[Polygon]:
    """Polygons of the picture's system in another one, all corners at once.

    Raises:
        UserError: the picture's system has no such places.
    """
    rings = [ring for polygon in polygons for ring in polygon]
    x, y = np.concatenate(rings).T
    with _errors_named(georeference.name):
        points = np.stack(_rasterio().warp.transform(georeference.crs, system, x, y)[:2], axis=1)
    if not np.isfinite(points).all():
        raise UserError(f"{georeference.name}: lies where {georeference.crs} has no places; write its position again")
    found = iter(np.split(points, np.cumsum([len(ring) for ring in rings])[:-1]))
    return [[next(found) for _ in polygon] for polygon in polygons]


def _signed_area(ring: Ring) -> float:
    """Of a closed ring, positive where it runs counterclockwise."""
    x, y = (ring - ring[0]).T  # near zero, where differences keep their digits
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
