"""The entry point of profiling: a module, an ONNX model or a file, run on real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.deprecation import renamed_keywords
from lccl.errors import UserError
from lccl.loading.data import Data, DataSource, is_pair, load_data
from lccl.loading.torch_file import TORCH_SUFFIXES, load_checkpoint
from lccl.numerics import Axes
from lccl.profiling.profiles import NetworkProfile
from lccl.requires import needing

if TYPE_CHECKING:
    from lccl.loading.types import Network

_CHUNK = 64
"""Images per batch, where the data does not come in batches."""


@renamed_keywords(loader="data")
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
        return [loaded] if is_pair(loaded) or isinstance(loaded, Mapping) or hasattr(loaded, "__array__") else loaded
    chunks = list(loaded.chunks(tuple(loaded.inputs), _CHUNK))
    return chunks if len(loaded.inputs) > 1 else [next(iter(chunk.values())) for chunk in chunks]
