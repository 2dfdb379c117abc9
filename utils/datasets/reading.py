"""How a split is read: the options, its photographs, and what happens to records that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.inputs.picture_files import AS_STORED, PictureHeader, read_header
from utils.datasets.base import BadRecord, Sample
from utils.datasets.picture_names import PictureFinder
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

POLYGON_RULES = ("union", "first")
ORIENTATIONS = ("check", "apply", "stored")
PROPORTION_TOLERANCE = 0.01  # rounding when pictures are resized, no more


@dataclass(frozen=True)
class Reading:
    """How a split is read.

    Args:
        polygons: "union" of a target's polygons, or only the "first" (the published reading of DRSeg).
        skip_bad_records: leave bad records out, counted and listed in the log.
        orientation: of pictures with an orientation tag: "apply" it or leave them as "stored", whichever the labels
            were drawn on; "check" refuses a record whose frame does not tell that it was the stored pixels.
    """

    polygons: str = "union"
    skip_bad_records: bool = False
    orientation: str = "check"

    def __post_init__(self) -> None:
        for name, known in (("polygons", POLYGON_RULES), ("orientation", ORIENTATIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}")


@dataclass(frozen=True)
class Photograph:
    """The picture of a record, as `Sample` names it.

    Args:
        path: of the file.
        picture_size: (height, width) in pixels, None where it is that of the labels' frame.
        upright: whether its orientation tag is applied.
    """

    path: Path
    picture_size: tuple[int, int] | None
    upright: bool


class SplitReader:
    """Collects the samples of one label file; a bad record ends the reading or, with `skip_bad_records`, is left out.

    Every picture's header is read once. With `skip_bad_records` pictures are decoded: a truncated one is then a bad
    record, not an error during training.

    Args:
        file: of the labels, for messages.
        reading: the options.
        skipped: takes what is wrong with each record that is left out.
    """

    def __init__(self, file: Path, reading: Reading, skipped: list[str] | None = None) -> None:
        self.file, self.reading, self.skipped = file, reading, skipped
        self.samples: list[Sample] = []
        self.bad: list[str] = []
        self._pictures = PictureFinder()
        self._headers: dict[Path, PictureHeader] = {}
        self._rescaled = 0

    @contextmanager
    def record(self) -> Iterator[None]:
        """Around the reading of one record; what it adds to `samples` is taken back where it is bad.

        Raises:
            BadRecord: it cannot be used, and bad records are not skipped.
        """
        before = len(self.samples)
        try:
            yield
        except BadRecord as error:
            if not self.reading.skip_bad_records:
                raise BadRecord(f"{error}; mend it, or pass --skip-bad-records to go on without it") from error
            del self.samples[before:]
            self.bad.append(str(error).removeprefix(f"{self.file}: "))
        else:
            self._rescaled += any(sample.picture_size for sample in self.samples[before:])

    def photograph(self, where: str, path: Path, frame: tuple[int, int] | None) -> Photograph:
        """A record's picture, which may be spelled otherwise, checked against the labels' frame.

        Args:
            where: file, position and id of the record.
            path: of the picture, as the record names it.
            frame: (height, width) that the labels were drawn on; None where the labels name none and were drawn on
                the picture's own pixels.

        Raises:
            BadRecord: the picture cannot be used, its proportions are not the labels', or its orientation tag leaves
                open how they lie.
        """
        path = self._pictures.find(where, path)
        if path not in self._headers:
            self._headers[path] = picture_header(where, path, self.reading.skip_bad_records)
        header = self._headers[path]
        drawn_on = frame or header.size(self.reading.orientation != "stored")  # with "check" a turn is then refused
        upright = upright_as_labels(where, path, header, drawn_on, self.reading.orientation)
        size = header.size(upright)
        return Photograph(path, None if size == frame or frame is None else size, upright)

    def size(self, photograph: Photograph) -> tuple[int, int]:
        """(height, width) of a photograph that has been looked at, in pixels."""
        return self._headers[photograph.path].size(photograph.upright)

    def finish(self, what: str = "record") -> list[Sample]:
        """The samples; what was left out or read in another way than it is written goes to the log.

        Raises:
            UserError: there is none.
        """
        if self.bad:
            log.warning("%s: %d bad %ss skipped:\n  %s", self.file, len(self.bad), what, "\n  ".join(self.bad))
            if self.skipped is not None:
                self.skipped += self.bad
        if self._pictures.otherwise:
            wanted, found = next(iter(self._pictures.otherwise.items()))
            log.warning(
                "%s: %d pictures are named otherwise than their records say, the first %a for %a",
                *(self.file, len(self._pictures.otherwise), found.name, wanted.name),
            )
        if self._rescaled:
            message = "%s: %d records have pictures of another size; their polygons are scaled"
            log.warning(message, self.file, self._rescaled)
        if not self.samples:
            raise UserError(f"{self.file}: no usable {what} in it; fetch or make the data again (data/README.md)")
        return self.samples


def upright_as_labels(where: str, path: Path, header: PictureHeader, frame: tuple[int, int], orientation: str) -> bool:
    """Whether a picture's orientation tag is to be applied, so that it lies as its labels do.

    Raises:
        BadRecord: its proportions are not the labels', or its tag leaves it open.
    """
    turned, stored = (same_proportions(header.size(upright), frame) for upright in (True, False))
    tagged = header.orientation != AS_STORED
    wanted = {"apply": turned, "stored": stored, "check": turned or stored}[orientation]
    if not wanted:
        height, width = header.size(orientation == "apply")
        quarter = same_proportions((width, height), frame)
        raise BadRecord(
            f"{where}: {path} is {width}x{height} pixels, but the labels were drawn on "
            f"{frame[1]}x{frame[0]}; the proportions contradict each other"
            + (f" (its orientation tag is {header.orientation})" if tagged else "")
            + (" (its pixels may need the turn that its orientation tag asks for)" if quarter else "")
        )
    if tagged and turned and orientation == "check":
        raise BadRecord(
            f"{where}: {path} has the orientation tag {header.orientation}, and the labels' frame of "
            f"{frame[1]}x{frame[0]} fits its pixels {'stored or turned' if stored else 'only when turned'}; "
            "pass --orientation apply if labels were drawn on the picture as viewers show it, --orientation "
            "stored if on the pixels as stored, or bake the turn into the file (exiftran -ai FILE)"
        )
    return orientation == "apply" or not tagged


def same_proportions(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) differ by scale alone."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= PROPORTION_TOLERANCE


def picture_header(where: str, path: Path, decode: bool = False) -> PictureHeader:
    """The header of a record's picture; `decode` decodes it too.

    Raises:
        BadRecord: the picture is missing, or cannot be read.
    """
    try:
        return read_header(path, decode)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadRecord(f"{where}: its picture {path} is missing") from error
        raise BadRecord(f"{where}: {error}") from error
