"""The results of profiling: density and multiply-accumulates (MACs) per layer and in total.

Savings are given both over the gated layers only, as papers do, and over the whole network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lccl.console.text import count, percent, table


@dataclass(frozen=True)
class LayerProfile:
    """One layer's density and MACs; MACs are per image."""

    name: str
    kind: str
    """"gated", "conv" or "linear"."""
    dense_macs: int
    """The convolution's or linear layer's MACs with every pixel computed."""
    gate_macs: int = 0
    """The gate's own MACs."""
    density: float | None = None
    """The fraction of output pixels with g > 0 over all inputs; None for a layer without a gate."""

    @property
    def macs(self) -> float:
        """The MACs of a runtime that skips closed pixels: density * dense_macs + gate_macs."""
        return self.dense_macs if self.density is None else self.density * self.dense_macs + self.gate_macs


@dataclass(frozen=True)
class NetworkProfile:
    """The profile of a network: all convolutions and linear layers in order of execution.

    Prints as a table.
    """

    layers: tuple[LayerProfile, ...]
    images: int
    """The number of images that were run."""

    @property
    def gated(self) -> tuple[LayerProfile, ...]:
        """The layers with a gate."""
        return tuple(layer for layer in self.layers if layer.density is not None)

    @property
    def density(self) -> float | None:
        """The mean density of the gated layers, each with the same weight.

        None without gated layers.
        """
        densities = [layer.density for layer in self.layers if layer.density is not None]
        return sum(densities) / len(densities) if densities else None

    @property
    def dense_macs(self) -> int:
        """MACs per image of all layers with every pixel computed."""
        return sum(layer.dense_macs for layer in self.layers)

    @property
    def macs(self) -> float:
        """MACs per image of all layers in a runtime that skips closed pixels."""
        return sum(layer.macs for layer in self.layers)

    @property
    def saved_gated(self) -> float:
        """MACs saved / dense MACs over the gated layers only, which is the figure of papers."""
        return _saved(self.gated)

    @property
    def saved_network(self) -> float:
        """MACs saved / dense MACs over the whole network."""
        return _saved(self.layers)

    def as_dict(self) -> dict[str, object]:
        """Return the profile as plain values for JSON."""
        return {
            "images": self.images,
            "density": self.density,
            "dense_macs": self.dense_macs,
            "macs": self.macs,
            "saved_gated_layers": self.saved_gated,
            "saved_network": self.saved_network,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "density": layer.density,
                    "dense_macs": layer.dense_macs,
                    "gate_macs": layer.gate_macs,
                    "macs": layer.macs,
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.kind,
                percent(layer.density),
                f"{layer.dense_macs:,}",
                f"{layer.gate_macs:,}",
                f"{layer.macs:,.0f}",
            )
            for layer in self.layers
        ]
        rows.append(
            (
                "whole network",
                "mean of gated" if self.gated else "",
                percent(self.density),
                f"{self.dense_macs:,}",
                "",
                f"{self.macs:,.0f}",
            )
        )
        head = ("layer", "kind", "density", "dense MACs", "gate MACs", "LCCL MACs")
        return (
            table(head, rows, right=(2, 3, 4, 5))
            + f"\nMACs per image, mean of {count(self.images, 'image')}. Saved: {self.saved_gated:.1%} of the gated layers, "
            + f"{self.saved_network:.1%} of the whole network."
        )


def _saved(layers: Iterable[LayerProfile]) -> float:
    layers = tuple(layers)
    dense = sum(layer.dense_macs for layer in layers)
    return 1 - sum(layer.macs for layer in layers) / dense if dense else 0.0
