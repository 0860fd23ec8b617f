"""The profile of a network: of a module, a file or an ONNX model, on real inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.loading.torch_file import TORCH_SUFFIXES, load_checkpoint
from lccl.profiling.profiles import Profile
from lccl.requires import needing

if TYPE_CHECKING:
    import onnx
    from torch import nn


def profile(model: nn.Module | onnx.ModelProto | str | Path, loader: Iterable[Any]) -> Profile:
    """Runs the model over the loader and counts.

    Args:
        model: a PyTorch module (run in eval mode), an ONNX model, or a file of either.
        loader: one batch as a tensor or array, or batches: a tensor or array [N, C, H, W], a tuple whose first item is the input (the rest is ignored), or a
            dict of inputs by name.

    Returns:
        The profile; densities are means over all images.

    Raises:
        UserError: no batch in the loader, or a batch that does not fit the model.
    """
    with needing("lccl.profile"):
        from torch import nn

    if hasattr(loader, "__array__"):
        loader = [loader]
    if isinstance(model, (str, Path)) and Path(model).suffix in TORCH_SUFFIXES:
        model = load_checkpoint(model)
    if isinstance(model, nn.Module):
        from lccl.profiling.of_module import profile_module

        return profile_module(model, loader)
    with needing("lccl.profile"):
        from lccl.profiling.of_onnx import profile_onnx

    return profile_onnx(model, loader)
