"""The densities that gates had in training, kept with the network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lccl.nn.gate import Gate


def trained_densities(model: nn.Module) -> dict[str, float]:
    """Return the densities that gates had in training, by layer, where something observed them."""
    return {
        path.removesuffix("gate").removesuffix("."): module.trained_density
        for path, module in model.named_modules()
        if isinstance(module, Gate) and module.trained_density is not None
    }


def set_trained_densities(model: nn.Module, densities: Mapping[str, float]) -> None:
    """Give gates the densities that :func:`trained_densities` returned; unknown names are left."""
    for path, module in model.named_modules():
        if isinstance(module, Gate):
            module.trained_density = densities.get(path.removesuffix("gate").removesuffix("."))
