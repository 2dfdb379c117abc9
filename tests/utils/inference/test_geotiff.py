"""Masks of GeoTIFFs as GeoJSON, against projections and areas that are worked out here."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from model.inputs.images import read_image
from model.inputs.picture_files import turned
from utils.inference.geotiff import geojson_bytes, geojson_features, is_georeferenced, read_georeference
from utils.runtime.errors import UserError

HEIGHT, WIDTH = 40, 60
SEMI_MAJOR, FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84
SQUARED_ECCENTRICITY = FLATTENING * (2 - FLATTENING)
ECCENTRICITY = SQUARED_ECCENTRICITY**0.5
US_FOOT = 1200 / 3937
Inverse = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # x, y -> longitude, latitude


def conformal_to_latitude(conformal: np.ndarray) -> np.ndarray:
    """Radians; by Newton's method on the isometric latitude."""
    target = np.arctanh(np.sin(conformal))
    latitude = conformal.copy()
    for _ in range(8):
        sine = np.sin(latitude)
        isometric = np.arctanh(sine) - ECCENTRICITY * np.arctanh(ECCENTRICITY * sine)
        slope = (1 - SQUARED_ECCENTRICITY) / ((1 - SQUARED_ECCENTRICITY * sine**2) * np.cos(latitude))
        latitude += (target - isometric) / slope
    return latitude


def utm(zone: int) -> Inverse:
    """UTM on the northern half, by Krüger's series to the third power of n."""
    n = FLATTENING / (2 - FLATTENING)
    radius = SEMI_MAJOR / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    series = (n / 2 - 2 / 3 * n**2 + 37 / 96 * n**3, n**2 / 48 + n**3 / 15, 17 / 480 * n**3)

    def inverse(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        north, east = y / (0.9996 * radius), (x - 500000) / (0.9996 * radius)
        z = north + 1j * east
        z = z - sum(beta * np.sin(2 * (j + 1) * z) for j, beta in enumerate(series))
        conformal = np.arcsin(np.sin(z.real) / np.cosh(z.imag))
        longitude = np.degrees(np.arctan2(np.sinh(z.imag), np.cos(z.real))) + 6 * zone - 183
        return longitude, np.degrees(conformal_to_latitude(conformal))

    return inverse


def plate_carree(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, y


def web_mercator(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.degrees(x / SEMI_MAJOR), np.degrees(2 * np.arctan(np.exp(y / SEMI_MAJOR)) - np.pi / 2)


def california_6(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EPSG:2230, Lambert's conformal conic with two standard parallels, in US survey feet (Snyder, 15-1 to 15-11)."""

    def t(latitude: float) -> float:
        sine = np.sin(latitude)
        return float(np.exp(-(np.arctanh(sine) - ECCENTRICITY * np.arctanh(ECCENTRICITY * sine))))

    def m(latitude: float) -> float:
        return float(np.cos(latitude) / np.sqrt(1 - SQUARED_ECCENTRICITY * np.sin(latitude) ** 2))

    origin, first, second = np.radians([32 + 10 / 60, 33 + 53 / 60, 32 + 47 / 60])
    n = (np.log(m(first)) - np.log(m(second))) / (np.log(t(first)) - np.log(t(second)))
    scale = m(first) / (n * t(first) ** n) * SEMI_MAJOR
    east, north = x * US_FOOT - 2_000_000, scale * t(origin) ** n - (y * US_FOOT - 500_000)
    longitude = np.degrees(np.arctan2(east, north) / n) - 116.25
    isometric = -np.log(np.hypot(east, north) / scale) / n
    return longitude, np.degrees(conformal_to_latitude(np.arcsin(np.tanh(isometric))))


NORTH_UP = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
TURNED = (0.8, 0.6, 0.0, 0.6, -0.8, 0.0)  # by 36.87 degrees
SYSTEMS = {
    "utm": ("EPSG:32633", 0.5, (600_000, 5_400_000), NORTH_UP, utm(33)),
    "utm turned": ("EPSG:32633", 0.05, (300_000, 600_000), TURNED, utm(33)),
    "longitude and latitude": ("EPSG:4326", 1e-5, (10, 60), NORTH_UP, plate_carree),
    "web mercator": ("EPSG:3857", 0.5, (1_000_000, 8_400_000), NORTH_UP, web_mercator),
    "state plane in feet": ("EPSG:2230", 1.5, (6_300_000, 1_850_000), NORTH_UP, california_6),
}


def placed(size: float, corner: tuple[float, float], form: tuple[float, ...] = NORTH_UP) -> tuple[float, ...]:
    """A transform whose pixels have a size and whose first corner lies somewhere."""
    a, b, _, d, e, _ = (size * value for value in form)
    return a, b, corner[0], d, e, corner[1]


def draw(path: Path, crs: str | None, transform: tuple[float, ...] | None, **more: Any) -> Path:
    rasterio = pytest.importorskip("rasterio")
    place = {} if transform is None else {"transform": rasterio.Affine(*transform)}
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8", "crs": crs}
    with rasterio.open(path, "w", **{**profile, **place, **more}) as file:
        file.write(np.zeros((3, file.height, file.width), np.uint8))
    return path


def box_mask(top: int, left: int, bottom: int, right: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def on_globe(transform: tuple[float, ...], inverse: Inverse, corners: list[tuple[float, float]]) -> np.ndarray:
    """float[N, 2], longitude and latitude of corners (x, y) of pixels."""
    a, b, c, d, e, f = transform
    x, y = np.array(corners, float).T
    return np.stack(inverse(a * x + b * y + c, d * x + e * y + f), axis=1)


def square_metres(points: np.ndarray) -> float:
    """The area of a small polygon by the ellipsoid's radii of curvature in its middle."""
    middle = np.radians(points.mean(axis=0))
    curved = 1 - SQUARED_ECCENTRICITY * np.sin(middle[1]) ** 2
    east = SEMI_MAJOR / curved**0.5 * np.cos(middle[1])
    north = SEMI_MAJOR * (1 - SQUARED_ECCENTRICITY) / curved**1.5
    x, y = ((np.radians(points) - middle) * (east, north)).T
    return float(abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2)


def same_ring(ring: list[list[float]], expected: np.ndarray) -> bool:
    """Whether a closed ring has these corners in a row, from any one on and either way, within 1e-8 degrees."""
    if ring[0] != ring[-1] or len(ring) != len(expected) + 1:
        return False
    found = np.array(ring[:-1])
    return any(
        np.allclose(np.roll(turn, shift, axis=0), expected, rtol=0, atol=1e-8)
        for turn in (found, found[::-1])
        for shift in range(len(found))
    )


def counterclockwise(ring: list[list[float]]) -> bool:
    x, y = (np.array(ring) - ring[0]).T
    return bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_places_and_areas_are_right_in_any_system(tmp_path: Path, system: str) -> None:
    crs, size, corner, form, inverse = SYSTEMS[system]
    transform = placed(size, corner, form)
    path = draw(tmp_path / "a.tif", crs, transform)
    masks = np.stack([box_mask(10, 20, 25, 50), np.zeros((HEIGHT, WIDTH), bool)])
    collection = geojson_features(read_georeference(path), masks, [{"question": "Which?", "confidence": 0.5}, {}])
    found, empty = collection["features"]
    assert collection["type"] == "FeatureCollection" and found["type"] == "Feature"
    assert found["geometry"]["type"] == "MultiPolygon"
    ((outline,),) = found["geometry"]["coordinates"]
    expected = on_globe(transform, inverse, [(20, 10), (50, 10), (50, 25), (20, 25)])
    assert same_ring(outline, expected) and counterclockwise(outline)
    assert found["properties"] == {
        "question": "Which?",
        "confidence": 0.5,
        "area_px": 450,
        "area_m2": pytest.approx(square_metres(expected), rel=2e-5),
    }
    assert empty["geometry"] is None and empty["properties"] == {"area_px": 0, "area_m2": 0}


def test_web_mercators_metres_are_not_the_grounds(tmp_path: Path) -> None:
    """At 60 degrees one of them is half a metre."""
    path = draw(tmp_path / "a.tif", "EPSG:3857", placed(0.5, (1_000_000, 8_400_000)))
    (one,) = geojson_features(read_georeference(path), box_mask(0, 0, 20, 20)[None], [{}])["features"]
    assert one["properties"]["area_m2"] == pytest.approx(100 / 4, rel=0.03)


def test_holes_and_parts(tmp_path: Path) -> None:
    transform = placed(0.5, (600_000, 5_400_000))
    path = draw(tmp_path / "a.tif", "EPSG:32633", transform)
    mask = box_mask(5, 5, 30, 30) & ~box_mask(10, 10, 15, 20) & ~box_mask(15, 20, 18, 22)  # holes touch at a corner
    mask |= box_mask(30, 30, 35, 40)  # a part that touches at a corner
    (found,) = geojson_features(read_georeference(path), mask[None], [{}])["features"]
    polygons = sorted(found["geometry"]["coordinates"], key=len)
    (small,), (outline, *holes) = polygons
    assert len(holes) == 2
    for ring in (small, outline, *holes):
        corners = [tuple(point) for point in ring[:-1]]
        assert len(set(corners)) == len(corners)  # no ring touches itself
    assert counterclockwise(small) and counterclockwise(outline)
    assert not any(counterclockwise(hole) for hole in holes)
    corners = [(10, 10), (20, 10), (20, 15), (10, 15)]
    assert any(same_ring(hole, on_globe(transform, utm(33), corners)) for hole in holes)
    pixel = square_metres(on_globe(transform, utm(33), [(5, 5), (35, 5), (35, 35), (5, 35)])) / 900
    assert found["properties"]["area_px"] == mask.sum() == 25 * 25 - 50 - 6 + 50
    assert found["properties"]["area_m2"] == pytest.approx(mask.sum() * pixel, rel=2e-5)


@pytest.mark.parametrize("tag", range(1, 9))
def test_an_orientation_tag_leaves_the_ground_where_it_is(tmp_path: Path, tag: int) -> None:
    """Masks lie in the upright picture, the georeference in the stored one."""
    transform = placed(0.5, (600_000, 5_400_000), TURNED)
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[10:25, 20:50] = 255
    info = ImageFileDirectory_v2()
    with Image.open(draw(tmp_path / "plain.tif", "EPSG:32633", transform)) as plain:
        for key in (33550, 33922, 34264, 34735, 34736, 34737):
            if key in plain.tag_v2:
                info[key], info.tagtype[key] = plain.tag_v2[key], plain.tag_v2.tagtype[key]
    info[274] = tag
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo=info)
    georeference = read_georeference(tmp_path / "a.tif")
    upright = read_image(tmp_path / "a.tif")
    assert (upright == turned(stored, tag)).all()
    assert (georeference.height, georeference.width) == upright.shape[:2]
    (found,) = geojson_features(georeference, (upright > 0).all(axis=2)[None], [{}])["features"]
    ((outline,),) = found["geometry"]["coordinates"]
    assert same_ring(outline, on_globe(transform, utm(33), [(20, 10), (50, 10), (50, 25), (20, 25)]))


def test_long_edges_follow_the_globe(tmp_path: Path) -> None:
    """Of 150 km, which with its ends alone would leave its place by 300 m and more: two pixels of 150 m."""
    transform = placed(150, (600_000, 5_400_000))
    path = draw(tmp_path / "a.tif", "EPSG:32633", transform, width=1000)
    mask = box_mask(0, 0, 5, 1000, (HEIGHT, 1000))
    (found,) = geojson_features(read_georeference(path), mask[None], [{}])["features"]
    ((outline,),) = found["geometry"]["coordinates"]
    true = on_globe(transform, utm(33), [(x, 0) for x in range(1001)])
    longitudes, latitudes = np.array(sorted(point for point in outline if point[1] > true[:, 1].min() - 1e-4)).T
    ends_alone = np.interp(true[:, 0], true[[0, -1], 0], true[[0, -1], 1])
    degrees = 150 / 111_200  # of a pixel
    assert np.abs(ends_alone - true[:, 1]).max() > 2 * degrees
    top = latitudes > np.interp(longitudes, true[:, 0], true[:, 1]) - degrees
    line = np.interp(true[:, 0], longitudes[top], latitudes[top])
    assert np.abs(line - true[:, 1]).max() < 0.25 * degrees


def test_a_mask_across_the_antimeridian_is_cut(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.tif", "EPSG:32660", placed(100, (829_000 - 3000, 1_000_000)))
    (found,) = geojson_features(read_georeference(path), box_mask(5, 5, 35, 55)[None], [{}])["features"]
    polygons = found["geometry"]["coordinates"]
    longitudes = [np.array(outline)[:, 0] for outline, *_ in polygons]
    assert len(polygons) == 2 and all(np.ptp(one) < 1 for one in longitudes)
    assert sorted(np.sign(one.mean()) for one in longitudes) == [-1, 1]
    assert all(counterclockwise(outline) for outline, *_ in polygons)
    assert found["properties"]["area_m2"] == pytest.approx(1500 * 100**2, rel=0.003)  # of UTM at its zone's edge


def test_written_geojson_is_read_back(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.tif", "EPSG:4326", placed(1e-5, (10, 60)))
    collection = geojson_features(read_georeference(path), box_mask(1, 2, 3, 4)[None], [{"question": "Où\udcff?"}])
    assert json.loads(geojson_bytes(collection).decode("utf-8")) == collection


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    georeference = read_georeference(draw(tmp_path / "a.tif", "EPSG:4326", placed(1e-5, (10, 60))))
    with pytest.raises(ValueError, match="pixels"):
        geojson_features(georeference, np.zeros((1, WIDTH, HEIGHT), bool), [{}])


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")  # said while it is drawn
def test_what_places_no_pixels_is_told(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    control = rasterio.control.GroundControlPoint
    points = [control(row=y, col=x, x=10 + x / 1e4, y=60 - y / 1e4) for x, y in ((0, 0), (60, 0), (0, 40), (60, 40))]
    cases = {
        "no coordinate reference system": draw(tmp_path / "a.tif", None, placed(1, (5, 5))),
        "do not say where": draw(tmp_path / "b.tif", "EPSG:32633", None),
        "4 ground control points": draw(tmp_path / "c.tif", "EPSG:4326", None, gcps=points),
        "RPC": draw(tmp_path / "d.tif", None, None, rpcs=rational_polynomials(rasterio)),
    }
    for message, path in cases.items():
        assert is_georeferenced(path)
        with pytest.raises(UserError, match=message) as caught:
            read_georeference(path)
        assert str(path) in str(caught.value)


def rational_polynomials(rasterio: Any) -> Any:
    names = ("height_off", "height_scale", "lat_off", "lat_scale", "line_off", "line_scale", "long_off", "long_scale",
             "samp_off", "samp_scale")  # fmt: skip
    polynomials = ("line_den_coeff", "line_num_coeff", "samp_den_coeff", "samp_num_coeff")
    return rasterio.rpc.RPC(**dict.fromkeys(names, 1.0), **dict.fromkeys(polynomials, [1.0] * 20))


def test_a_place_outside_of_its_system_is_told(tmp_path: Path) -> None:
    georeference = read_georeference(draw(tmp_path / "far.tif", "EPSG:32633", placed(1, (8e12, 5_400_000))))
    with pytest.raises(UserError, match="far.tif"):
        geojson_features(georeference, box_mask(0, 0, 2, 2)[None], [{}])


def test_other_pictures_are_not_georeferenced(tmp_path: Path) -> None:
    for name in ("a.tif", "a.jpg", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        assert not is_georeferenced(tmp_path / name)
    with pytest.raises(UserError, match="no such picture"):
        is_georeferenced(tmp_path / "none.tif")


def test_without_rasterio_it_is_known_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = ImageFileDirectory_v2()
    info[34735], info.tagtype[34735] = (1, 1, 0, 1, 1024, 0, 1, 2), 3
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif", tiffinfo=info)
    found = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.split(".")[0] == "rasterio":
            raise ModuleNotFoundError("No module named 'rasterio'")
        return found(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert is_georeferenced(tmp_path / "a.tif")
    with pytest.raises(UserError, match="pip install rasterio"):
        read_georeference(tmp_path / "a.tif")
