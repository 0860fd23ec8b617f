"""Data to run networks on, inputs with labels: an ``.npz`` file, images, a loader, arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, TypeGuard, cast

import numpy as np

from lccl.errors import UserError, first_line
from lccl.errors.arguments import FILE, NAME, takes
from lccl.files import require_file
from lccl.loading.images import folder_of, read_images
from lccl.loading.importing import import_object
from lccl.loading.types import Batch, SupportsArray
from lccl.numerics import Array, Axes, count_samples, float32, require_finite, sample_axis, take_samples

LABEL_NAMES = ("labels", "label", "y", "targets", "target")


@dataclass(frozen=True)
class Data:
    """Inputs by name, and their labels if they are known.

    The first axis of an input is the sample, unless ``axes`` says otherwise.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None
    axes: Axes = field(default_factory=dict)
    """Input -> the axis of its samples; None: it is the same for all samples, such as a rate."""

    def __len__(self) -> int:
        """The number of samples."""
        return count_samples(self.inputs, self.axes)

    def feed(self, names: tuple[str, ...], start: int = 0, stop: int | None = None) -> dict[str, Array]:
        """Return a slice of the inputs under a runner's own names; a single input needs no name.

        Args:
            names: the runner's inputs.
            start: the first sample.
            stop: the sample behind the last one; None: all.

        Raises:
            UserError: the data has no input of one of these names.
        """
        if len(self.inputs) == 1 and len(names) == 1:
            return {names[0]: next(iter(self._samples(tuple(self.inputs), start, stop).values()))}
        missing = [name for name in names if name not in self.inputs]
        if missing:
            raise UserError(f"the data has inputs {', '.join(self.inputs)}, but the model needs {', '.join(missing)}")
        return self._samples(names, start, stop)

    def _samples(self, names: tuple[str, ...], start: int, stop: int | None) -> dict[str, Array]:
        found = take_samples({name: self.inputs[name] for name in names}, self.axes, start, stop)
        return {name: _own(values) for name, values in found.items()}

    def chunks(self, names: tuple[str, ...], size: int) -> Iterator[dict[str, Array]]:
        """Give all samples in order as feeds of at most ``size`` samples; see :meth:`feed`."""
        return (self.feed(names, start, start + size) for start in range(0, len(self), size))


DataSource: TypeAlias = "str | Path | Data | Batch | Iterable[Batch]"
"""Data to check, calibrate or compare with: an ``.npz`` file, a folder of images,
"pkg.module:loader", or batches."""


def read_data(source: DataSource, axes: Axes | None = None) -> Data:
    """Read any source of data.

    Args:
        source: an ``.npz`` file, a folder of images, "pkg.module:loader", arrays, a dict of arrays
            by name, (inputs, labels), or an iterable of such batches.
        axes: where the samples of each input stand; see :attr:`Data.axes`. None: first.

    Raises:
        UserError: it cannot be read, or its arrays do not go together.
    """
    return load_data(source, axes) if isinstance(source, (str, Path)) else as_data(source, axes)


@takes(source=FILE | NAME)
def load_data(source: str | Path, axes: Axes | None = None) -> Data:
    """Read an ``.npz`` file (inputs by name, labels as "labels" or "y"), images, or call a loader.

    float64 becomes float32. A loader is a callable that returns (inputs, labels), inputs alone, a
    dict as in the file, or an iterable of such batches, for example a torch DataLoader.

    A folder of images gives float32 [N, C, H, W] from 0 to 1, with the sorted names of its
    sub-folders as classes. Options stand behind a question mark:
    "photos?size=224x224&mean=0.485,0.456,0.406&std=0.229,0.224,0.225&channels=3&labels=file.csv".
    They are decoded once, into a temporary file, so that memory stays flat.

    Args:
        source: the file, the folder, or the loader's name, "pkg.module:loader".
        axes: where the samples of each input stand; see :attr:`Data.axes`. None: first.

    Raises:
        UserError: it cannot be read or called, or its arrays do not go together.
    """
    text = str(source)
    folder = folder_of(text)
    if folder is not None:
        images, classes = read_images(*folder)
        return as_data(Data({"input": images}, classes), axes)
    if ":" in text and not Path(text).exists():
        loader = import_object(text, "loader")
        try:
            return as_data(cast("Data | Batch", loader() if callable(loader) else loader), axes)
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a SystemExit too, which would end this program
            raise UserError(f"the loader {text} raised {type(error).__name__}: {first_line(error)}") from error
    path = require_file(source)
    try:
        with np.load(path, allow_pickle=False) as content:
            if not hasattr(content, "files"):
                raise UserError(f"{path} holds one array without a name: save it with numpy.savez(path, input=..., labels=...)")
            return as_data({name: content[name] for name in content.files}, axes)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is not an .npz file of plain arrays ({first_line(error)})") from None


def as_data(value: Data | Batch | Iterable[Batch], axes: Axes | None = None) -> Data:
    """Turn what a loader returns into inputs and labels.

    Args:
        value: what the loader returns.
        axes: where the samples of each input stand; see :attr:`Data.axes`. None: first, or as the
            data says that has it.

    Raises:
        UserError: no sample in it, arrays of different lengths, or NaN or infinity in the inputs.
    """
    data = value if isinstance(value, Data) else _data_of(value, axes or {})
    places = data.axes if axes is None else _by_name(axes, data.inputs)
    found = {name: sample_axis(name, np.asarray(a), places) for name, a in data.inputs.items()}
    lengths = {name: np.shape(data.inputs[name])[axis] for name, axis in found.items() if axis is not None}
    if not lengths or 0 in lengths.values():
        raise UserError("the data holds no sample")
    if data.labels is not None:
        lengths["labels"] = len(data.labels)
    if 0 in lengths.values():
        raise UserError("the data holds no sample")
    require_finite(data.inputs)
    if len(set(lengths.values())) > 1:
        raise UserError(f"the data's arrays differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    return replace(data, axes=places)


def _data_of(value: Batch | Iterable[Batch], axes: Axes) -> Data:
    if _is_array(value) or isinstance(value, Mapping) or is_pair(value):
        return _batch(value)
    if isinstance(value, Iterable):
        return _concatenate([_batch(batch) for batch in value], axes)
    raise UserError(
        f"inputs come as arrays, a dict of arrays, (inputs, labels) or batches of these, not as {type(value).__name__}"
    )


def _own(values: Array) -> Array:
    """Return samples as an array that a network may write into: a mapped file is read-only."""
    return np.asarray(values, order="C") if values.flags.writeable else np.array(values, order="C")


def _is_array(value: object) -> TypeGuard[SupportsArray]:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def is_pair(value: object) -> bool:
    """Return whether the value is (inputs, labels) and not two batches.

    Labels have one axis, or another number of axes than the inputs, such as boxes [N, count, 4].
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not _is_array(value[1]):
        return False
    return np.ndim(value[1]) <= 1 or isinstance(value[0], Mapping) or np.ndim(value[0]) != np.ndim(value[1])


def _batch(value: object) -> Data:
    if _is_array(value):
        return Data({"input": float32(value)})
    if isinstance(value, Mapping):
        label = next((name for name in LABEL_NAMES if name in value and len(value) > 1), None)
        arrays = {str(name): float32(a) for name, a in value.items() if name != label}
        return Data(arrays, None if label is None else np.asarray(value[label]))
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return Data(_batch(value[0]).inputs, np.asarray(value[1]))
    raise UserError(f"a batch is an array, a dict of arrays or (inputs, labels), not {type(value).__name__}")


def _concatenate(batches: list[Data], axes: Axes) -> Data:
    if not batches:
        raise UserError("the loader gave no batch")
    first = batches[0].inputs
    named = _by_name(axes, first)
    inputs = {}
    for name, values in first.items():
        axis = sample_axis(name, values, named)
        if axis is None and not all(np.array_equal(values, b.inputs[name]) for b in batches):
            raise UserError(
                f"input {name} differs from batch to batch, and the model takes one for all samples: give one batch"
            )
        inputs[name] = values if axis is None else np.concatenate([b.inputs[name] for b in batches], axis)
    labels = [b.labels for b in batches if b.labels is not None]
    return Data(inputs, np.concatenate(labels) if len(labels) == len(batches) else None)


def _by_name(axes: Axes, inputs: Mapping[str, Array]) -> Axes:
    """The model's axes under the data's names; a single input needs no name."""
    return dict(zip(inputs, axes.values(), strict=True)) if len(inputs) == len(axes) == 1 else axes
