"""A folder of images as data: decoded once into a temporary file, so that memory stays flat."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lccl.errors import UserError, first_line, shown
from lccl.errors.requires import needing
from lccl.files import require_file
from lccl.numerics import Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_PIXELS = 2**26
"""Of one image: a small file can claim billions."""
_CHANNELS = {1: "L", 3: "RGB"}
_DECODERS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
"""Of Pillow: by a file's content it would choose others too, of which one starts Ghostscript."""
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass(frozen=True)
class ImageOptions:
    """How images become inputs: float32 [C, H, W], from 0 to 1, then (x - mean) / std."""

    size: tuple[int, int] | None = None
    """Height and width to resize to; None: all images have one size already."""
    mean: tuple[float, ...] = ()
    """By channel, as values from 0 to 1; empty: 0."""
    std: tuple[float, ...] = ()
    """By channel; empty: 1."""
    channels: int = 3
    """3, or 1 for grey values."""
    labels: Path | None = None
    """A file of classes: CSV lines "name,class", or JSON {name: class}; None: by sub-folder, the
    sorted names of which are classes 0, 1, ..."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: one is out of range.
        """
        if self.channels not in _CHANNELS:
            raise UserError(f"images have 1 or 3 channels, not {self.channels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values and len(values) not in (1, self.channels):
                raise UserError(f"the {name} of images has {self.channels} numbers, one for each channel, not {len(values)}")
        if any(not value > 0 for value in self.std):
            raise UserError(f"the std of images is above 0, not {min(self.std)}")
        if self.size is not None and not all(0 < side < 2**16 for side in self.size):
            raise UserError(f"the size of images is a height and a width above 0, not {shown(self.size)}")


def folder_of(text: str) -> tuple[Path, ImageOptions] | None:
    """Return the folder that a source of data names, and what its images become.

    Options stand behind a question mark: "photos?size=224x224&mean=0.485,0.456,0.406&channels=3".
    None where the text names no folder.

    Raises:
        UserError: there is no such option, or its value is of another form.
    """
    if Path(text).is_dir():
        return Path(text), ImageOptions()
    name, mark, query = text.partition("?")
    if not mark or not Path(name).is_dir():
        return None
    given: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in _FORMS:
            raise UserError(f"images have no option {shown(key)}: {name}?... takes {', '.join(_FORMS)}")
        try:
            given[key] = _FORMS[key][0](value)
        except ValueError:
            raise UserError(f"the option {key} of images is written like {key}={_FORMS[key][1]}, not {shown(part)}") from None
    return Path(name), ImageOptions(**given)


def _size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


_FORMS: dict[str, tuple[Callable[[str], object], str]] = {
    "size": (_size, "224x224"),
    "mean": (_numbers, "0.485,0.456,0.406"),
    "std": (_numbers, "0.229,0.224,0.225"),
    "channels": (int, "3"),
    "labels": (Path, "labels.csv"),
}
"""Option -> how its value is read, and an example."""


def read_images(folder: Path, options: ImageOptions) -> tuple[Array, Array | None]:
    """Read every image of a folder.

    Args:
        folder: with images in it, or in sub-folders, one for each class.
        options: what they become.

    Returns:
        Images [N, C, H, W], in a file that goes with the array, and classes [N]; None where nothing
        says them.

    Raises:
        UserError: there is no image, one cannot be read or is of another size, or the labels do not
            fit.
    """
    paths = _paths(folder)
    classes = _classes(folder, paths, options.labels)
    with needing("a folder of images"):
        from PIL import Image  # noqa: F401 - before the first image, for its own sentence
    store: IO[bytes] = tempfile.TemporaryFile(prefix="lccl-images-")  # noqa: SIM115 - it lives as long as the array
    shape: tuple[int, ...] | None = None
    for path in paths:
        image = _decoded(path, options)
        if shape is None:
            shape = image.shape
        elif image.shape != shape:
            raise UserError(
                f"{path} is {_said(image.shape)}, but {paths[0]} is {_said(shape)}: a network takes images of one size; "
                f"'{folder}?size={shape[1]}x{shape[2]}' resizes them all"
            )
        try:
            store.write(image.tobytes())
        except OSError as error:
            raise UserError(
                f"cannot keep the decoded images in {tempfile.gettempdir()} ({error.strerror}): make room there, or name another "
                "folder in TMPDIR"
            ) from None
    assert shape is not None
    store.flush()
    return np.memmap(store, np.float32, "r", 0, (len(paths), *shape)), classes


def _paths(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{folder} holds no image: give a folder with files such as {', '.join(SUFFIXES[:4])}")
    return found


def _classes(folder: Path, paths: Sequence[Path], labels: Path | None) -> Array | None:
    if labels is not None:
        given = dict(_read_labels(require_file(labels)))
        names = [path.relative_to(folder).as_posix() for path in paths]
        missing = [name for name in names if name not in given and Path(name).name not in given]
        if missing:
            raise UserError(f"{labels} has no class of {missing[0]}")
        return np.array([given.get(name, given.get(Path(name).name)) for name in names], np.int64)
    own = {path.relative_to(folder).parts[0] for path in paths if path.parent != folder}
    if not own:
        return None
    loose = next((path for path in paths if path.parent == folder), None)
    if loose is not None:
        raise UserError(f"{loose} lies beside folders of classes: put it into one, or give its class in a file of labels")
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    order = {name: number for number, name in enumerate(folders)}  # one without images keeps its number
    return np.array([order[path.relative_to(folder).parts[0]] for path in paths], np.int64)


def _read_labels(path: Path) -> Iterator[tuple[str, int]]:
    """Yield names of images and their classes.

    Raises:
        UserError: the file is of another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows: list[Any] = (
            list(json.loads(text).items()) if path.suffix == ".json" else [r for r in csv.reader(text.splitlines()) if r]
        )
    except (ValueError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(f'{path} is no file of labels ({first_line(error)}): write lines "name,class", or JSON') from None
    for number, row in enumerate(rows, 1):
        try:
            name, value = row
            if isinstance(value, (bool, float)):
                raise ValueError
            label = int(value)
            if not 0 <= label < 2**31:
                raise ValueError
        except (ValueError, TypeError):
            if number == 1 and path.suffix != ".json":  # a line of headings
                continue
            raise UserError(f'{path}, entry {number}: a label is a name and a whole number, "name,class"') from None
        yield str(name).strip(), label


def _decoded(path: Path, options: ImageOptions) -> Array:
    """Return one image as float32 [C, H, W].

    Raises:
        UserError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_DECODERS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UserError(f"{path} claims {width} x {height} pixels: that is more than {MOST_PIXELS}")
            if image.mode not in _EIGHT_BITS:
                raise UserError(
                    f"{path} holds more than 8 bits a channel ({image.mode}): write it again with 8, or give arrays"
                )
            wanted = image.convert(_CHANNELS[options.channels])
            if options.size is not None:
                wanted = wanted.resize((options.size[1], options.size[0]), Image.Resampling.BILINEAR)
            values = np.asarray(wanted, np.float32) / 255
    except UserError:
        raise
    except Exception as error:  # whatever a decoder raises on a broken file
        raise UserError(f"{path} cannot be read as an image ({first_line(error)}): remove it, or write it again") from None
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    for numbers, apply in ((options.mean, np.subtract), (options.std, np.divide)):
        if numbers:
            values = apply(values, np.asarray(numbers, np.float32).reshape(-1, 1, 1))
    return np.ascontiguousarray(values, np.float32)


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[2]}"
