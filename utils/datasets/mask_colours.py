"""Which colours the pixels of a mask have, by name."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Range:
    """Of hue in degrees (from `low` on clockwise to `high`), saturation and value from 0 to 1."""

    low: float
    high: float
    saturation: tuple[float, float]
    value: tuple[float, float]

    def holds(self, hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
        """bool[N] of float[N] each."""
        turned = (hue - self.low) % 360 <= (self.high - self.low) % 360 if self.high - self.low < 360 else True
        inside = (saturation >= self.saturation[0]) & (saturation <= self.saturation[1])
        return turned & inside & (value >= self.value[0]) & (value <= self.value[1])


# What everybody calls so, and what somebody might. Between the clear ranges of two colours lie 15 degrees and more.
CLEAR, LOOSE = (0.4, 1.0), (0.15, 1.0)
LIT, DIM = (0.3, 1.0), (0.12, 1.0)
COLOURS: dict[str, tuple[Range, Range]] = {
    "red": (Range(348, 12, CLEAR, LIT), Range(330, 30, LOOSE, DIM)),
    "yellow": (Range(46, 64, CLEAR, (0.5, 1.0)), Range(30, 80, LOOSE, DIM)),
    "green": (Range(90, 150, CLEAR, LIT), Range(70, 170, LOOSE, DIM)),
    "blue": (Range(200, 250, CLEAR, LIT), Range(175, 275, LOOSE, DIM)),
    "white": (Range(0, 360, (0.0, 0.1), (0.88, 1.0)), Range(0, 360, (0.0, 0.25), (0.65, 1.0))),
}


@dataclass(frozen=True)
class Colours:
    """Shares of a mask's pixels by colour, 0 to 1.

    Args:
        clear: that everybody would call so.
        loose: that somebody might.
    """

    clear: dict[str, float]
    loose: dict[str, float]


def mask_colours(pixels: np.ndarray) -> Colours:
    """The colours of uint8[N, 3], RGB; N is at least 1."""
    hsv = cv2.cvtColor(np.ascontiguousarray(pixels, np.float32)[None] / 255, cv2.COLOR_RGB2HSV)[0]
    channels = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    shares = {name: [float(np.mean(one.holds(*channels))) for one in pair] for name, pair in COLOURS.items()}
    return Colours({name: pair[0] for name, pair in shares.items()}, {name: pair[1] for name, pair in shares.items()})
