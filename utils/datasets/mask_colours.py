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

    def holds(self, hsv: np.ndarray) -> np.ndarray:
        """Which pixels of uint8[H, W, 3] are in it, as OpenCV's COLOR_RGB2HSV_FULL gives them: bool[H, W]."""
        turns = [(self.low, self.high)] if self.low < self.high else [(self.low, 360), (0, self.high)]
        found = np.zeros(hsv.shape[:2], bool)
        for low, high in turns:
            least = (low * 255 / 360, self.saturation[0] * 255, self.value[0] * 255)
            most = (high * 255 / 360, self.saturation[1] * 255, self.value[1] * 255)
            found |= cv2.inRange(hsv, np.ceil(least), np.floor(most)) > 0
        return found


# What everybody calls so, and what somebody might. Between the clear ranges of two colours lie 26 degrees and more.
CLEAR, LOOSE = (0.4, 1.0), (0.25, 1.0)
LIT, DIM = (0.3, 1.0), (0.12, 1.0)
COLOURS: dict[str, tuple[Range, Range]] = {
    "red": (Range(348, 12, CLEAR, LIT), Range(330, 30, LOOSE, DIM)),
    "yellow": (Range(46, 64, CLEAR, (0.5, 1.0)), Range(30, 80, LOOSE, DIM)),
    "green": (Range(90, 150, CLEAR, LIT), Range(70, 170, LOOSE, DIM)),
    "blue": (Range(200, 250, CLEAR, LIT), Range(175, 275, LOOSE, DIM)),
    "white": (Range(0, 360, (0.0, 0.1), (0.88, 1.0)), Range(0, 360, (0.0, 0.15), (0.78, 1.0))),
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


def colour_map(pixels: np.ndarray) -> np.ndarray:
    """Which colours each pixel is of, as bits: uint8[H, W, 3], RGB -> uint16[H, W].

    Bit 2 i says that it is clearly of the i-th of COLOURS, bit 2 i + 1 that it is loosely of it.
    """
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    bits = np.zeros(pixels.shape[:2], np.uint16)
    for i, pair in enumerate(COLOURS.values()):
        for j, one in enumerate(pair):
            bits |= one.holds(hsv).astype(np.uint16) << (2 * i + j)
    return bits


def mask_colours(bits: np.ndarray) -> Colours:
    """The colours of a mask's pixels, uint16[N] of a `colour_map`; N is at least 1."""
    shares = [float(np.mean(bits >> bit & 1)) for bit in range(2 * len(COLOURS))]
    return Colours(dict(zip(COLOURS, shares[::2], strict=True)), dict(zip(COLOURS, shares[1::2], strict=True)))
