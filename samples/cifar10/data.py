"""CIFAR-10 from the official archives or from the PNG form of it, split into three sets.

``CIFAR10`` in the environment names where it is: ``cifar-10-python.tar.gz``, the folder
``cifar-10-batches-py`` that comes out of it, or a folder of ``data_batch_1.png`` to
``data_batch_5.png`` and ``test_batch.png`` (one image a row) with their labels in
``train_lables.json`` and ``test_lables.json`` (spelt so).
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lccl.errors import UserError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the pretrained networks were trained with: of ImageNet, in RGB."""
HELD_OUT = 5000
"""The last training images of a fixed order: choices are made on them, and not on the test images."""
IN_A_FILE = 10_000
WHERE = (
    "set CIFAR10 to cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html), to the folder cifar-10-batches-py of "
    "it, or to a folder of data_batch_1.png ... test_batch.png"
)


class Split(NamedTuple):
    """Images [N, 3, 32, 32], 0 to 255, and their classes [N]."""

    images: Bytes
    labels: Labels


class Cifar10(NamedTuple):
    """45,000 images to train on, 5,000 to choose by, and the 10,000 test images."""

    train: Split
    held_out: Split
    test: Split


@functools.cache
def cifar10(path: str | None = None) -> Cifar10:
    """Read CIFAR-10.

    Args:
        path: where it is; None: what the environment says.

    Raises:
        UserError: it is not there, or is something else.
    """
    found = path or os.environ.get("CIFAR10")
    if not found:
        raise UserError(f"CIFAR-10 is not part of this sample: {WHERE}")
    try:
        read = _reader(Path(found))
        parts = [read(f"data_batch_{i}") for i in range(1, 6)]
        test = read("test_batch")
    except UserError:
        raise
    except ImportError as error:
        raise UserError("reading PNGs needs Pillow: pip install pillow") from error
    except Exception as error:  # whatever a broken archive, picture or pickle raises
        raise UserError(f"{found} cannot be read as CIFAR-10 ({type(error).__name__}: {error}): {WHERE}") from error
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.random.default_rng(0).permutation(len(images))
    own, held = order[:-HELD_OUT], order[-HELD_OUT:]
    return Cifar10(Split(images[own], labels[own]), Split(images[held], labels[held]), test)


def normalized(images: Bytes) -> Images:
    """Return images as the networks take them: [N, 3, 32, 32], each channel with its mean and deviation."""
    mean, deviation = (np.array(v, np.float32).reshape(3, 1, 1) for v in (MEAN, DEVIATION))
    return (images.astype(np.float32) / np.float32(255) - mean) / deviation


def held_out() -> tuple[Images, Labels]:
    """Return the 5,000 held-out images and their labels, for ``--data``."""
    split = cifar10().held_out
    return normalized(split.images), split.labels


def test_images() -> tuple[Images, Labels]:
    """Return the 10,000 test images and their labels, for ``--data``."""
    split = cifar10().test
    return normalized(split.images), split.labels


def _reader(path: Path) -> Callable[[str], Split]:
    """Return what reads one file of the set by its name, in the form that this is."""
    if path.is_dir():
        if (path / "cifar-10-batches-py").is_dir():
            path /= "cifar-10-batches-py"
        if (path / "test_batch").exists():
            return lambda name: _from_pickle((path / name).read_bytes(), name)
        if (path / "test_batch.png").exists():
            return _png_reader(path)
    elif tarfile.is_tarfile(path):
        return _archive_reader(path)
    raise UserError(f"{path} has no CIFAR-10: {WHERE}")


def _archive_reader(path: Path) -> Callable[[str], Split]:
    """Read the whole archive once: it is compressed as one stream."""
    with path.open("rb") as file:
        opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
    with opened(path, "rb") as stream:
        content = stream.read()  # to the end, where gzip has its checksum
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            part = archive.extractfile(member) if member.isfile() else None
            if part is not None:
                contents[Path(member.name).name] = part.read()

    def read(name: str) -> Split:
        if name not in contents:
            raise UserError(f"{path} has no {name}: it is not CIFAR-10's archive for Python, or is cut off")
        return _from_pickle(contents[name], name)

    return read


class _Arrays(pickle.Unpickler):
    """Reads arrays of NumPy and plain values, and runs nothing that a file names."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that arrays need.

        Raises:
            UnpicklingError: it is another one.
        """
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _from_pickle(content: bytes, name: str) -> Split:
    try:
        batch = _Arrays(io.BytesIO(content), encoding="bytes").load()
        images, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.int64)
        return _checked(images.reshape(-1, 3, 32, 32), labels, name)
    except Exception as error:
        raise UserError(f"{name} is no file of CIFAR-10 ({error}): unpack the archive again") from error


def _png_reader(path: Path) -> Callable[[str], Split]:
    from PIL import Image

    train, test = (json.loads((path / f"{kind}_lables.json").read_text()) for kind in ("train", "test"))

    def read(name: str) -> Split:
        number = name.rpartition("_")[2]
        start = IN_A_FILE * (int(number) - 1) if number.isdigit() else 0
        labels = (train if number.isdigit() else test)[start : start + IN_A_FILE]
        with Image.open(path / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB"), np.uint8)
        return _checked(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).copy(), np.asarray(labels, np.int64), name)

    return read


def _checked(images: Bytes, labels: Labels, name: str) -> Split:
    if len(images) != IN_A_FILE or labels.shape != (IN_A_FILE,) or not ((labels >= 0) & (labels < 10)).all():
        raise ValueError(f"{name} has {len(images)} images and {len(labels)} labels, not {IN_A_FILE} of each")
    return Split(images, labels)
