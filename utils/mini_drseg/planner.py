"""Lays out a scene: roads, crossings, parking, buildings, pools, trees, vehicles and people.

Things never overlap: every footprint is marked on a coarse occupancy grid. Positions are drawn
uniformly over the picture, not over the ground, so that near and far parts fill evenly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.mini_drseg.scene import VEHICLES, Camera, Road, Scene, Thing, draw_camera, draw_light

CELL = 0.25  # metres per cell of the occupancy grid
MAX_ATTEMPTS = 30  # positions drawn before a thing is skipped

# kind -> ranges of length, width and height in metres
SIZES = {
    "car": ((3.9, 4.7), (1.7, 1.85), (1.4, 1.6)),
    "van": ((4.9, 5.7), (1.95, 2.1), (2.1, 2.4)),
    "truck": ((6.6, 8.4), (2.3, 2.5), (2.9, 3.3)),
    "bus": ((9.5, 11.5), (2.5, 2.55), (3.0, 3.2)),
    "container": ((5.6, 6.2), (2.4, 2.5), (2.5, 2.6)),
    "stall": ((2.6, 3.6), (2.2, 2.8), (2.4, 2.7)),
    "person": ((0.5, 0.6), (0.5, 0.6), (1.6, 1.85)),
}
VEHICLE_COLOURS = ("white", "black", "grey", "red", "blue", "yellow", "green")
VEHICLE_SHARES = (0.19, 0.13, 0.10, 0.18, 0.17, 0.12, 0.11)
ROOF_COLOURS = ("red", "blue", "grey", "white", "green", "brown")
CLUTTER_COLOURS = ("red", "blue", "green", "yellow", "white")


class Planner:
    """Adds things to one scene. `rng` is the only source of randomness."""

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        self.rng = rng
        soil = str(rng.choice(["grass", "dry", "soil"], p=[0.55, 0.25, 0.20]))
        self.scene = Scene(camera, draw_light(rng), soil, roads=[])
        self.half_side = self.scene.reach + 8.0
        cells = int(2 * self.half_side / CELL)
        self.occupied = np.zeros((cells, cells), bool)
        self.paved = np.zeros((cells, cells), bool)

    # -- occupancy -----------------------------------------------------------------------------
    def _grid_cells(self, quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices (rows, columns) of the grid cells that a parallelogram float[4, 2] covers, int[N, M] each."""
        n = int(np.linalg.norm(quad[1] - quad[0]) / 0.2) + 2
        m = int(np.linalg.norm(quad[3] - quad[0]) / 0.2) + 2
        s, t = np.linspace(0, 1, n)[:, None, None], np.linspace(0, 1, m)[None, :, None]
        points = quad[0] + s * (quad[1] - quad[0]) + t * (quad[3] - quad[0])
        index = np.clip(((points + self.half_side) / CELL).astype(int), 0, len(self.paved) - 1)
        return index[..., 1], index[..., 0]

    def _place(self, thing: Thing, off_road: bool, margin: float = 0.3) -> bool:
        """Add a thing if its footprint is free and, with `off_road`, touches nothing paved; returns whether it was."""
        cells = self._grid_cells(thing.footprint(margin))
        if self.occupied[cells].any() or (off_road and self.paved[cells].any()):
            return False
        self.occupied[cells] = True
        self.scene.things.append(thing)
        return True

    # -- draws ---------------------------------------------------------------------------------
    def _random_point(self, margin: float = 0.06) -> np.ndarray:
        """A ground point, uniform over the frame but for a margin (share of its size); float[2] metres."""
        camera = self.scene.camera
        share = self.rng.uniform(margin, 1 - margin, 2)
        return camera.ground(share * (camera.width, camera.height))

    def _random_size(self, kind: str) -> tuple[float, float, float]:
        length, width, height = (float(self.rng.uniform(*span)) for span in SIZES[kind])
        return length, width, height

    def _thing(self, kind: str, colour: str, at: np.ndarray, heading: float, **looks: Any) -> Thing:
        size = looks.pop("size", None) or self._random_size(kind)
        seed = int(self.rng.integers(1 << 31))
        return Thing(kind, colour, float(at[0]), float(at[1]), heading, *size, seed=seed, **looks)

    def vehicle_colour(self) -> str:
        """A colour in about the shares of real traffic, bright ones more often."""
        return str(self.rng.choice(VEHICLE_COLOURS, p=VEHICLE_SHARES))

    def _aligned_heading(self) -> float:
        """A heading square to the first road, with a little scatter."""
        turn = self.rng.integers(4) * np.pi / 2
        return float(self.scene.roads[0].heading + turn + self.rng.normal(0, 0.05))

    # -- ground --------------------------------------------------------------------------------
    def add_roads(self) -> None:
        """One road through the picture, sometimes a second one across it."""
        rng, scene = self.rng, self.scene
        wide = scene.camera.altitude > 30
        width = rng.uniform(6.4, 7.2) if wide else rng.uniform(5.6, 6.2)
        pavement = rng.uniform(1.2, 2.0) if wide else rng.uniform(0.9, 1.3)
        first = Road(self._random_point(0.25), rng.uniform(0, 2 * np.pi), width, pavement)
        scene.roads.append(first)
        if wide and rng.random() < 0.25:
            scene.roads.append(Road(self._random_point(0.2), first.heading + np.pi / 2, width, pavement))
        for road in scene.roads:
            edge = road.width / 2 + road.pavement
            self.paved[self._grid_cells(road.strip(-self.half_side, self.half_side, -edge, edge))] = True

    def add_crossing(self) -> Thing | None:
        """A zebra crossing over the first road, away from the junction."""
        road = self.scene.roads[0]
        for _ in range(MAX_ATTEMPTS):
            u = float((self._random_point(0.15) - road.origin) @ road.along)
            size = (float(self.rng.uniform(2.4, 3.2)), road.width - 0.3, 0.0)
            crossing = self._thing("crossing", "white", road.point(u), road.heading, size=size)
            if not self.scene.camera.shows(crossing.centre, 0.1) or self._on_junction(crossing):
                continue
            if self._place(crossing, off_road=False, margin=0.8):
                return crossing
        return None

    def _on_junction(self, thing: Thing) -> bool:
        for road in self.scene.roads[1:]:
            offset = abs((thing.centre - road.origin) @ road.across)
            if offset < road.width / 2 + road.pavement + thing.length / 2:
                return True
        return False

    def add_lot(self) -> None:
        """A parking area beside the first road; its bays are filled by `add_parked_cars`."""
        rng, road = self.rng, self.scene.roads[0]
        bays = int(rng.integers(3, 7))
        side = rng.choice([-1, 1])
        u = float((self._random_point(0.25) - road.origin) @ road.along)
        v = side * (road.width / 2 + road.pavement + 3.0)
        # local y points away from the road, so that cars face it or turn their back to it
        heading = road.heading + (0 if side > 0 else np.pi)
        lot = Thing("lot", "grey", *road.point(u, v), heading, bays * 2.6, 6.0, 0.0)
        cells = self._grid_cells(lot.footprint())
        if self.occupied[cells].any() or self._on_junction(lot):
            return
        self.paved[cells] = True
        self.scene.lots.append(lot)

    def add_patch(self) -> None:
        """A coloured surface (court, tarpaulin): clutter in the colours of the vehicles."""
        rng = self.rng
        for _ in range(MAX_ATTEMPTS):
            size = (float(rng.uniform(2.5, 6)), float(rng.uniform(1.8, 4)), 0.0)
            colour = str(rng.choice(CLUTTER_COLOURS))
            patch = self._thing("patch", colour, self._random_point(0.0), self._aligned_heading(), size=size)
            cells = self._grid_cells(patch.footprint(0.3))
            if not (self.occupied[cells].any() or self.paved[cells].any()):
                self.occupied[cells] = True
                self.scene.patches.append(patch)
                return

    # -- things --------------------------------------------------------------------------------
    def add_lane_vehicle(self, kind: str, ambulance: bool = False) -> None:
        """A vehicle in its lane, driving on the right."""
        looks = {"style": "ambulance", "tags": frozenset({"ambulance"})} if ambulance else {}
        rng = self.rng
        for _ in range(MAX_ATTEMPTS):
            road = self.scene.roads[int(rng.integers(len(self.scene.roads)))]
            side = int(rng.choice([-1, 1]))
            u = float((self._random_point(0.0) - road.origin) @ road.along)
            at = road.point(u, side * (road.width / 4 + rng.normal(0, 0.1)))
            heading = road.heading + (np.pi if side > 0 else 0) + rng.normal(0, 0.03)
            colour = "white" if ambulance else self.vehicle_colour()
            thing = self._thing(kind, colour, at, heading, **looks)
            if self.scene.camera.shows(at) and self._place(thing, off_road=False, margin=0.4):
                return

    def add_vehicle_on(self, crossing: Thing, kind: str) -> None:
        """A vehicle that stands on the crossing."""
        rng, road = self.rng, self.scene.roads[0]
        side = int(rng.choice([-1, 1]))
        at = crossing.centre + road.across * side * road.width / 4
        at = at + road.along * rng.uniform(-0.4, 0.4)
        heading = road.heading + (np.pi if side > 0 else 0) + rng.normal(0, 0.04)
        thing = self._thing(kind, self.vehicle_colour(), at, heading, tags=frozenset({"on_crossing"}))
        self.occupied[self._grid_cells(thing.footprint(0.4))] = True
        self.scene.things.append(thing)

    def add_vehicle_across(self) -> None:
        """A car that stands across the lanes of the first road."""
        rng, road = self.rng, self.scene.roads[0]
        for _ in range(MAX_ATTEMPTS):
            u = float((self._random_point(0.12) - road.origin) @ road.along)
            at = road.point(u, rng.uniform(-0.8, 0.8))
            heading = road.heading + np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.15)
            thing = self._thing("car", self.vehicle_colour(), at, heading, tags=frozenset({"across"}))
            if not self.scene.camera.shows(at, 0.08) or self._on_junction(thing):
                continue
            if self._place(thing, off_road=False, margin=0.5):
                return

    def add_parked_cars(self) -> None:
        """Cars and vans in the bays of the parking areas, some bays left empty."""
        rng = self.rng
        for lot in self.scene.lots:
            bays = round(lot.length / 2.6)
            for bay in range(bays):
                at = lot.to_world([[(bay + 0.5) * 2.6 - lot.length / 2, 0.1]])[0]
                if rng.random() < 0.4 or not self.scene.camera.shows(at, 0.03):
                    continue
                heading = lot.heading + np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.03)
                kind = "van" if rng.random() < 0.25 else "car"
                self._place(self._thing(kind, self.vehicle_colour(), at, heading), False, 0.1)

    def add_off_road(self, kind: str, colour: str, **looks: Any) -> bool:
        """A thing anywhere beside the road; returns whether a free position was found."""
        free_heading = kind in VEHICLES or kind in ("tree", "person")
        for _ in range(MAX_ATTEMPTS):
            heading = self.rng.uniform(0, 2 * np.pi) if free_heading else self._aligned_heading()
            thing = self._thing(kind, colour, self._random_point(), heading, **looks)
            if self._place(thing, off_road=True):
                return True
        return False

    def add_building(self, small: bool) -> None:
        """A house or shed with a flat or a pitched roof."""
        rng = self.rng
        lo, hi = (4.0, 6.0) if small else (5.5, 9.5)
        size = tuple(float(v) for v in (*rng.uniform(lo, hi, 2), rng.uniform(2.6, 5.0)))
        style = str(rng.choice(["gable", "flat", "solar"], p=[0.5, 0.35, 0.15]))
        self.add_off_road("building", str(rng.choice(ROOF_COLOURS)), size=size, style=style)

    def add_pool(self, small: bool) -> None:
        """A rectangular or round pool."""
        rng = self.rng
        round_ = rng.random() < 0.35
        length = float(rng.uniform(3.2, 5.0) if small else rng.uniform(4.0, 7.5))
        width = length if round_ else length * float(rng.uniform(0.5, 0.7))
        style = "round" if round_ else "rectangular"
        self.add_off_road("pool", "blue", size=(length, width, 0.0), style=style)

    def add_tree(self, colour: str = "green") -> None:
        """A tree; length and width are its crown's."""
        crown = float(self.rng.uniform(2.2, 4.6))
        height = crown * float(self.rng.uniform(0.9, 1.3))
        self.add_off_road("tree", colour, size=(crown, crown, height))

    def add_person(self) -> None:
        """A person on the pavement, the crossing or the ground beside the road."""
        rng, road = self.rng, self.scene.roads[0]
        colour = str(rng.choice(CLUTTER_COLOURS))
        if rng.random() < 0.5:
            self.add_off_road("person", colour)
            return
        u = float((self._random_point() - road.origin) @ road.along)
        at = road.point(u, rng.choice([-1, 1]) * (road.width / 2 + road.pavement / 2))
        self._place(self._thing("person", colour, at, rng.uniform(0, 6.28)), False, 0.05)


def _random_count(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def plan_scene(rng: np.random.Generator) -> Scene:
    """A random scene, determined by the state of `rng`."""
    camera = draw_camera(rng)
    planner = Planner(rng, camera)
    density = {30: 0, 60: 1, 100: 2}[camera.altitude]  # more ground, more things
    planner.add_roads()
    crossing = planner.add_crossing() if rng.random() < 0.65 else None
    _add_traffic(planner, crossing, density)
    _add_surroundings(planner, density)
    return planner.scene


def _add_traffic(planner: Planner, crossing: Thing | None, density: int) -> None:
    """Vehicles on the roads and in parking areas, at most one of which blocks a crossing or a lane."""
    rng = planner.rng
    if rng.random() < (0.35, 0.5, 0.6)[density]:
        planner.add_lot()
    draw = rng.random()
    if crossing is not None and draw < 0.4:
        kind = str(rng.choice(VEHICLES, p=[0.65, 0.25, 0.07, 0.03]))
        planner.add_vehicle_on(crossing, kind)
    elif draw > 0.78:
        planner.add_vehicle_across()
    if rng.random() < 0.3:
        planner.add_lane_vehicle("bus")
    if rng.random() < 0.15:
        planner.add_lane_vehicle("van", ambulance=True)
    for _ in range(_random_count(rng, *((1, 3), (2, 4), (3, 6))[density])):
        planner.add_lane_vehicle(str(rng.choice(["car", "van", "truck"], p=[0.66, 0.22, 0.12])))
    planner.add_parked_cars()


def _add_surroundings(planner: Planner, density: int) -> None:
    """All that stands beside the roads, large things first, while the grid is empty."""
    rng = planner.rng
    for _ in range(_random_count(rng, *((0, 1), (0, 2), (1, 3))[density])):
        planner.add_building(small=density == 0)
    if rng.random() < 0.45:
        for _ in range(1 if rng.random() < 0.8 else 2):
            planner.add_pool(small=density == 0)
    for _ in range(_random_count(rng, 0, 1 if density == 0 else 2)):
        planner.add_off_road("container", str(rng.choice(CLUTTER_COLOURS[:4])))
    if rng.random() < 0.35:
        kind = str(rng.choice(VEHICLES, p=[0.6, 0.25, 0.12, 0.03]))
        planner.add_off_road(kind, planner.vehicle_colour(), tags=frozenset({"on_grass"}))
    if rng.random() < 0.3:
        planner.add_off_road("stall", str(rng.choice(CLUTTER_COLOURS[:4])))
    for _ in range(1 if rng.random() < 0.2 else _random_count(rng, 1, 3 + density)):
        planner.add_tree("yellow" if rng.random() < 0.15 else "green")
    for _ in range(_random_count(rng, 1, 3)):
        planner.add_patch()
    for _ in range(_random_count(rng, 0, 3 if density < 2 else 0)):
        planner.add_person()
