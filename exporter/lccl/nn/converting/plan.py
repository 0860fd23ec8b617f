"""The table of a conversion: which convolutions get a gate, why, and what it could save."""

from __future__ import annotations

from dataclasses import dataclass

from lccl.console.text import count, percent, table
from lccl.nn.converting.policies import Choice
from lccl.nn.converting.structure import ConvInfo


@dataclass(frozen=True)
class PlannedLayer:
    """One convolution of the network; its MACs are per image, and None without an example input."""

    conv: ConvInfo
    choice: Choice

    @property
    def name(self) -> str:
        """The convolution's name in the network."""
        return self.conv.name

    @property
    def gated(self) -> bool:
        """Whether the convolution gets a gate."""
        return self.choice.gated

    def saved(self, density: float) -> float | None:
        """Return the MACs per image that skipping closed pixels saves.

        Negative where the gate costs more.

        Args:
            density: the fraction of pixels computed.
        """
        if not self.gated or self.conv.macs is None or self.conv.gate_macs is None:
            return None
        return (1 - density) * self.conv.macs - self.conv.gate_macs


@dataclass(frozen=True)
class ConversionPlan:
    """What :func:`lccl.nn.convert` does to a network, layer by layer in order of execution.

    Prints as a table.
    """

    layers: tuple[PlannedLayer, ...]
    gate: str
    """The kind of gate: "1x1", "kxk" or "grid"."""
    density: float
    """The fraction of pixels computed for which savings are given."""
    network_macs: int | None
    """MACs per image of all convolutions and linear layers; None without an example input."""
    notes: tuple[str, ...]
    """Warnings about code of the network that could not be traced."""

    @property
    def gated(self) -> tuple[PlannedLayer, ...]:
        """The layers that get a gate."""
        return tuple(layer for layer in self.layers if layer.gated)

    @property
    def saved_network(self) -> float | None:
        """MACs saved / MACs of the whole network, at :attr:`density`.

        None without an example input.
        """
        savings = [layer.saved(self.density) for layer in self.gated]
        return sum(s for s in savings if s is not None) / self.network_macs if self.network_macs else None

    def as_dict(self) -> dict[str, object]:
        """Return the plan as plain values for JSON."""
        return {
            "gate": self.gate,
            "density": self.density,
            "network_macs": self.network_macs,
            "saved_network": self.saved_network,
            "notes": list(self.notes),
            "layers": [
                {
                    "name": layer.name,
                    "block": layer.conv.block,
                    "kernel_size": list(layer.conv.kernel_size),
                    "in_channels": layer.conv.in_channels,
                    "out_channels": layer.conv.out_channels,
                    "gated": layer.gated,
                    "why": layer.choice.why,
                    "norm": layer.conv.norm,
                    "macs": layer.conv.macs,
                    "gate_macs": layer.conv.gate_macs,
                    "saved": layer.saved(self.density),
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        head = ["convolution", "kernel", "channels", "gate", "why", "norm moved in"]
        rows = [
            [
                layer.name,
                layer.conv.kernel,
                f"{layer.conv.in_channels} -> {layer.conv.out_channels}",
                self.gate if layer.gated else "-",
                layer.choice.why,
                (layer.conv.norm or "-") if layer.gated else "-",
            ]
            for layer in self.layers
        ]
        right: tuple[int, ...] = (2,)
        if self.network_macs is not None:
            right = (2, 6, 7, 8)
            head += ["MACs", "gate MACs", f"saved at {self.density:.0%}"]
            for row, layer in zip(rows, self.layers, strict=True):
                gate_macs = layer.conv.gate_macs if layer.gated else None
                row += [_number(layer.conv.macs), _number(gate_macs), _number(layer.saved(self.density))]
        return "\n".join([table(head, rows, right=right), self._summary(), *(f"Note: {note}." for note in self.notes)])

    def _summary(self) -> str:
        text = f"{len(self.gated)} of {count(len(self.layers), 'convolution')} get a gate."
        if self.network_macs is None:
            return text + " MACs need an example input: args=torch.randn(1, 3, 224, 224)."
        return (
            f"{text} At a density of {percent(self.density)} a runtime that skips closed pixels saves "
            f"{percent(self.saved_network)} of the network's {self.network_macs:,} MACs per image."
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
