"""F1 over the digits of pages: read rightly, at the right place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

STRIDE = 4
"""Pixels of the page for each pixel of the network's output."""
NEAR = 8.0
"""Pixels that a found centre may lie off the true one."""
CUT = 0.3
"""The probability from which a peak counts as a digit."""
APART = 5
"""Side of the window, in pixels of the output, in which one peak alone counts, of whatever digit."""


class Counts(NamedTuple):
    """Digits that were read rightly, that were read, and that are there, on one page."""

    right: int
    read: int
    there: int


def peaks(logits: Floats, cut: float = CUT) -> Labels:
    """Find the digits in one page's logits [10, H, W].

    Returns:
        One row for each [M, 3]: the digit, and the row and column of its centre in pixels.
    """
    best = logits.max(axis=0)
    is_peak = (best == ndimage.maximum_filter(best, APART)) & (best > np.log(cut / (1 - cut)))
    rows, columns = np.nonzero(is_peak)
    digits = logits[:, rows, columns].argmax(axis=0)
    return np.stack([digits, rows * STRIDE + STRIDE // 2, columns * STRIDE + STRIDE // 2], axis=1).astype(np.int64)


def match(found: Labels, labels: Labels) -> list[int | None]:
    """Match what was found with one page's labels; a true digit is matched once.

    Returns:
        For each found digit, the row of ``labels`` that it is, or None where it is wrong.
    """
    left = {i: row for i, row in enumerate(labels.tolist()) if row[0] >= 0}
    matches: list[int | None] = []
    for digit, row, column in found.tolist():
        near = (i for i, true in left.items() if true[0] == digit and np.hypot(true[1] - row, true[2] - column) <= NEAR)
        matches.append(next(near, None))
        if matches[-1] is not None:
            del left[matches[-1]]
    return matches


def count(found: Labels, labels: Labels) -> Counts:
    """Count one page's digits: read rightly, read, and there."""
    right = sum(one is not None for one in match(found, labels))
    return Counts(right, len(found), int((labels[:, 0] >= 0).sum()))


def f1(logits: Floats, labels: Labels) -> float:
    """Return F1 over all digits of all pages: a metric for ``lccl compare`` and ``lccl tune``.

    Args:
        logits: the network's output [N, 10, H, W].
        labels: of the pages [N, digits, 3], as :func:`samples.pages.data.pages` gives them.
    """
    return _f1(Counts(*(sum(column) for column in zip(*_counts(logits, labels), strict=True))))


def f1_of_pages(logits: Floats, labels: Labels) -> Floats:
    """Return F1 of each page [N]."""
    return np.array([_f1(one) for one in _counts(logits, labels)])


def _counts(logits: Floats, labels: Labels) -> list[Counts]:
    return [count(peaks(one), true) for one, true in zip(logits, labels, strict=True)]


def _f1(counts: Counts) -> float:
    """2 * right / (read + there); an empty page that is read as empty is perfect."""
    return 2 * counts.right / (counts.read + counts.there) if counts.read + counts.there else 1.0
