"""The entry point of profiling: a module, an ONNX model or a file, run on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from lccl.errors import UserError, kind_of, shown
from lccl.errors.arguments import NETWORK, takes
from lccl.errors.deprecation import renamed_keywords
from lccl.errors.requires import needing
from lccl.loading.data import Data, DataSource, is_pair, load_data
from lccl.loading.torch_file import TORCH_SUFFIXES, load_checkpoint
from lccl.numerics import Axes, float32
from lccl.profiling.profiles import NetworkProfile

if TYPE_CHECKING:
    from lccl.loading.types import Network

_CHUNK = 64
"""Images per batch, where the data does not come in batches."""


@renamed_keywords(loader="data")
@takes(model=NETWORK)
def profile(model: Network, data: DataSource) -> NetworkProfile:
    """Run a model on data and count densities and multiply-accumulates (MACs) per layer.

    Args:
        model: a PyTorch module (run in eval mode), an ONNX model, or a file of either.
        data: an ``.npz`` file, "pkg.module:loader", one batch as a tensor or array [N, C, H, W], or
            (inputs, labels), or an iterable of batches. A batch is a tensor or array, a tuple or
            list whose first item is one (labels are ignored), or a dict of inputs by name.

    Returns:
        The profile, whose densities are means over all images.

    Raises:
        UserError: the data cannot be read or holds no batch, or a batch does not fit the model.
    """
    with needing("lccl.profile"):
        from torch import nn

        from lccl.profiling.of_onnx import axes_of_data

    batches = _batches(data, axes_of_data([model]) if isinstance(data, (str, Path)) else None)
    if isinstance(model, (str, Path)) and Path(model).suffix in TORCH_SUFFIXES:
        try:
            model = load_checkpoint(model)
        except UserError as error:
            if not error.fixes:
                raise
            raise UserError(f"{error.message}: load it with lccl.load_checkpoint, and give the module") from None
    if isinstance(model, nn.Module):
        from lccl.profiling.of_module import profile_module

        return profile_module(model, batches)
    with needing("lccl.profile"):
        from lccl.profiling.of_onnx import profile_onnx

    return profile_onnx(model, batches)


def _batches(data: DataSource, axes: Axes | None) -> Iterable[object]:
    """Return the data as batches.

    A file's or loader's only input loses its name, which models do not know.
    """
    loaded = load_data(data, axes) if isinstance(data, (str, Path)) else data
    if not isinstance(loaded, Data):
        alone = is_pair(loaded) or isinstance(loaded, Mapping) or hasattr(loaded, "__array__")
        if not alone and not isinstance(loaded, Iterable):
            raise UserError(f"data comes as an .npz file, arrays or batches of these, not as {kind_of(loaded)}")
        return map(_checked, [loaded] if alone else cast("Iterable[object]", loaded))
    chunks = list(loaded.chunks(tuple(loaded.inputs), _CHUNK))
    return chunks if len(loaded.inputs) > 1 else [next(iter(chunk.values())) for chunk in chunks]


def _checked(batch: object) -> object:
    """A batch of arrays of numbers, whose first axis is the image.

    Of several inputs some may be no images.

    Raises:
        UserError: the batch is something else, or holds no image.
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    inputs: dict[object, object] = dict(batch) if isinstance(batch, Mapping) else {"input": first}
    shapes = []
    for name, value in inputs.items():
        if not hasattr(value, "__array__"):
            raise UserError(f"input {name} of a batch is an array whose first axis is the image, not {shown(value)}")
        shapes.append(np.shape(float32(value)))
    if not any(shapes) or any(0 in shape for shape in shapes):
        given = ", ".join(str(list(shape)) for shape in shapes) or "nothing"
        raise UserError(f"a batch holds at least one image along the first axis of its inputs, not {given}")
    return batch
