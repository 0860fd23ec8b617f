"""Scikit-learn's digits: 1,797 scans of 8 x 8, enlarged to 16 x 16, split into two sets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

IMAGE_SHAPE = (1, 16, 16)
HELD_OUT = 450


def _split() -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    digits = load_digits()
    images = digits.images.astype(np.float32) / 8 - 1
    images = images.repeat(2, axis=1).repeat(2, axis=2)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    labels = digits.target.astype(np.int64)
    return (images[train], labels[train]), (images[held_out], labels[held_out])


def train_set() -> tuple[Images, Labels]:
    """Return the 1,347 training images [N, 1, 16, 16] in [-1, 1] and their labels [N]."""
    return _split()[0]


def held_out() -> tuple[Images, Labels]:
    """Return the 450 held-out images [N, 1, 16, 16] in [-1, 1] and their labels [N]."""
    return _split()[1]


def calibration() -> tuple[Images, Labels]:
    """Return the first 300 training images and their labels: to move cuts by, and not to judge by."""
    images, labels = train_set()
    return images[:300], labels[:300]
