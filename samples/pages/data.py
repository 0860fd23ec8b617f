"""Pages of 256 x 256: real scans of digits at random places and sizes over paper, lines and noise.

Every page is made from its number and one seed, so the same pages come on every machine.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.datasets import load_digits

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SIDE = 256
MOST_DIGITS = 12
"""Rows of a page's labels; unused ones are -1."""
DIGITS_PER_PAGE = (4, 10)
SIZES = (14, 34)
"""Smallest and largest side of a digit in pixels."""
HELD_OUT_SCANS = 450
HELD_OUT_PAGES = 100


class Scans(NamedTuple):
    """Scans [N, 8, 8] from 0 (paper) to 1 (ink), and the digit of each [N]."""

    images: Images
    digits: Labels


@functools.cache
def scans(held_out: bool) -> Scans:
    """Return scikit-learn's scans: 1,347 for training, or the 450 held out."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    chosen = order[-HELD_OUT_SCANS:] if held_out else order[:-HELD_OUT_SCANS]
    return Scans((digits.images[chosen] / 16).astype(np.float32), digits.target[chosen].astype(np.int64))


def page(rng: np.random.Generator, source: Scans, side: int = SIDE) -> tuple[Images, Labels]:
    """Make one page.

    Args:
        rng: where everything random comes from.
        source: the scans to place.
        side: of the page in pixels. Smaller pages have fewer digits, as dense as on a whole one.

    Returns:
        The page [1, side, side], paper about 1 and ink about -1, and its labels [MOST_DIGITS, 3]:
        the digit, and the row and column of its centre in pixels; -1 in rows without one.
    """
    share = (side / SIDE) ** 2
    count = max(1, round(int(rng.integers(DIGITS_PER_PAGE[0], DIGITS_PER_PAGE[1] + 1)) * share))
    ink, labels = _digits(rng, source, side, count)
    darkness = ink * rng.uniform(0.55, 0.9)
    image = _paper(rng, side) - 2 * darkness
    image += rng.normal(0, rng.uniform(0.01, 0.06), image.shape)
    return image[None].astype(np.float32), labels


def pages(count: int, *, held_out: bool, seed: int = 0, side: int = SIDE) -> tuple[Images, Labels]:
    """Make pages [count, 1, side, side] and their labels [count, MOST_DIGITS, 3]."""
    made = [page(np.random.default_rng([seed, held_out, i]), scans(held_out), side) for i in range(count)]
    return np.stack([image for image, _ in made]), np.stack([labels for _, labels in made])


def held_out() -> tuple[Images, Labels]:
    """Return the 100 held-out pages, made of held-out scans, and their labels."""
    return pages(HELD_OUT_PAGES, held_out=True)


def ten() -> tuple[Images, Labels]:
    """Return the first ten held-out pages and their labels: enough to check an export with."""
    return pages(10, held_out=True)


def calibration() -> tuple[Images, Labels]:
    """Return 40 pages made of training scans and their labels: to move cuts by, and not to judge by."""
    return pages(40, held_out=False, seed=1)


def _digits(rng: np.random.Generator, source: Scans, side: int, count: int) -> tuple[Images, Labels]:
    """Place digits that do not touch; a digit that finds no place is left out."""
    ink = np.zeros((side, side), np.float32)
    taken = np.zeros((side, side), bool)
    labels = np.full((MOST_DIGITS, 3), -1, np.int64)
    placed = 0
    for _ in range(count):
        which = int(rng.integers(len(source.images)))
        scan = _enlarged(rng, source.images[which])
        height, width = scan.shape
        for _attempt in range(20):
            top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
            here = (slice(top, top + height), slice(left, left + width))
            if not taken[here].any():
                ink[here] = np.maximum(ink[here], scan)
                taken[here] = True
                labels[placed] = source.digits[which], top + height // 2, left + width // 2
                placed += 1
                break
    return ink, labels


def _enlarged(rng: np.random.Generator, scan: Images) -> Images:
    """A scan at a random size, turned by up to 12 degrees."""
    zoomed = ndimage.zoom(scan, int(rng.integers(SIZES[0], SIZES[1] + 1)) / 8, order=1)
    turned: Images = ndimage.rotate(zoomed, rng.uniform(-12, 12), reshape=False, order=1)
    return np.clip(turned, 0, 1)


def _paper(rng: np.random.Generator, side: int) -> npt.NDArray[np.float64]:
    """Uneven light, fibres, and on most pages ruled lines or a grid."""
    light: npt.NDArray[np.float64] = ndimage.zoom(rng.uniform(0.55, 1.0, (3, 3)), side / 3, order=1)[:side, :side]
    fibres = ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), rng.uniform(0.7, 2.0))
    paper: npt.NDArray[np.float64] = light + fibres * rng.uniform(0.02, 0.12)
    spacing, strength = int(rng.integers(16, 40)), rng.uniform(0.1, 0.5)
    start = int(rng.integers(spacing))
    kind = rng.integers(3)
    if kind >= 1:
        paper[start::spacing] -= strength
    if kind == 2:
        paper[:, start::spacing] -= strength
    return paper
