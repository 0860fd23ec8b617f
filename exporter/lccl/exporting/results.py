"""What an export leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lccl.console.text import count, table
from lccl.exporting.gate_search import explained
from lccl.graph.layers import LayerReport
from lccl.graph.recognise import NearMiss, RecognisedLayer
from lccl.numerics import Agreement, Array

MOST_DRIFT = 0.05
"""By how much a density may differ from that of training without a warning."""


@dataclass(frozen=True)
class ExportResult:
    """What was written; nothing is written unless every check passed."""

    path: Path
    layers: tuple[LayerReport, ...]
    checked: Agreement
    """The written model in ONNX Runtime against its source: PyTorch, or the given ONNX model."""
    checked_open: Agreement | None = None
    """The same with the gates of the source's own LCCL layers open; None where it has none, or is
    folded. The source does not know the gates of recognised layers, so these are as built."""
    recognised_open: Agreement | None = None
    """With every gate 1, against the graph in which layers were recognised; None where none was, or
    where the graph's gates cannot be opened."""
    given_inputs: int = 0
    """How many of the checked inputs the caller gave."""
    random_inputs: int = 0
    """How many of the checked inputs are random."""
    random_values: Mapping[str, str] = field(default_factory=dict)
    """What the random inputs hold that are no floats, such as "uint8 from 0 to 255"; floats are
    standard normal."""
    recognised: tuple[RecognisedLayer, ...] = ()
    """Layers that were recognised in standard ops."""
    near_misses: tuple[NearMiss, ...] = ()
    """Products that look like a gated convolution and stay as they are, with the reason."""
    closed_layers: tuple[str, ...] = ()
    """Gated layers with no open pixel on any of these inputs."""
    other_densities: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Gated layers whose density on the given inputs differs from that of training by more than
    0.05 -> the two, training's first."""
    constants: Mapping[str, object] = field(default_factory=dict)
    """Numbers and texts among the example inputs, by parameter. PyTorch makes them constants: the
    file computes with these values."""
    dense_path: Path | None = None
    decomposed_path: Path | None = None
    tensorrt_path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def gated(self) -> int:
        """The number of gated convolutions."""
        return sum(layer.gated for layer in self.layers)

    @property
    def warning(self) -> str | None:
        """What the check could not see: constants, weights under a closed gate, negative masks.

        And densities that are not those of training.
        """
        said = [self._constants_said(), self._masks_said(), self._closed_said(), self._densities_said()]
        return ". ".join(filter(None, said)) or None

    def _constants_said(self) -> str:
        if not self.constants:
            return ""
        values = ", ".join(f"{name} = {value!r}" for name, value in self.constants.items())
        return f"{values} in the file, as in the example: PyTorch makes an input of a tensor alone"

    def _masks_said(self) -> str:
        masks = sorted({name for layer in self.recognised for name in layer.masks})
        if not masks:
            return ""
        return f"Values of {', '.join(masks)} below 0 are not allowed: {'they are gates' if len(masks) > 1 else 'it is a gate'}"

    def _closed_said(self) -> str:
        """The layers whose weights the check cannot see, since their gate is closed everywhere."""
        if not self.closed_layers:
            return ""
        layers = f"layer{'s' if len(self.closed_layers) > 1 else ''} {', '.join(self.closed_layers)}"
        which = (
            "these inputs, which include the given ones" if self.given_inputs else "these random inputs; check it on real data"
        )
        return f"no gate of {layers} opened on {which}"

    def _densities_said(self) -> str:
        """The layers whose statistics are not those of training."""
        if not self.other_densities:
            return ""
        worst = max(self.other_densities, key=lambda name: abs(self.other_densities[name][0] - self.other_densities[name][1]))
        trained, found = self.other_densities[worst]
        return (
            f"the densities of {', '.join(self.other_densities)} differ from those of training by more than {MOST_DRIFT} "
            f"({worst}: {found:.2f} after {trained:.2f}): statistics of norms may lag behind, and lccl.train.recalibrate "
            "estimates them again"
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        values = {**asdict(self), "warning": self.warning}
        for name in ("path", "dense_path", "decomposed_path", "tensorrt_path"):
            values[name] = str(values[name]) if values[name] else None
        return values

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                "x".join(map(str, layer.kernel)) or "?",
                f"{layer.in_channels or '?'} -> {layer.out_channels or '?'}",
                "x".join(map(str, layer.strides)) or "?",
                f"gated, {layer.gate}" if layer.gated else "dense",
                layer.reason,
            )
            for layer in self.layers
        ]
        lines = [table(("convolution", "kernel", "channels", "stride", "form", "why not gated"), rows)]
        lines.append(f"{self.gated} of {len(self.layers)} convolutions are gated. Against its source: {self._found()}.")
        if self.recognised:
            lines.append(self._found_layers())
        if self.warning:
            lines.append(f"Warning: {self.warning}.")
        written = [("model", self.path), ("dense twin", self.dense_path), ("decomposed", self.decomposed_path)]
        written.append(("for TensorRT with the plugin", self.tensorrt_path))
        lines.append("Wrote " + ", ".join(f"{path} ({what})" for what, path in written if path) + ".")
        return "\n".join(lines)

    def _found_layers(self) -> str:
        """What recognition did, in a sentence."""
        fused = sum(len(layer.fused) for layer in self.recognised)
        return f"{count(len(self.recognised), 'layer')} recognised in standard ops, {count(fused, 'following op')} fused."

    def explain(self) -> str:
        """The near misses as a table."""
        return explained(self.near_misses)

    def _found(self) -> str:
        values = "; ".join(f"{name}: {told}" for name, told in self.random_values.items())
        random = count(self.random_inputs, "random input") + (f" ({values})" if values else "")
        as_built = self.checked.over(f"{self.given_inputs} given and {random}" if self.given_inputs else random)
        gates = "the gates of its own LCCL layers" if self.recognised else "all gates"
        text = as_built + (f"; with {gates} open: max error {self.checked_open.max_error:.1e}" if self.checked_open else "")
        if self.recognised_open:
            text += (
                f". Against the graph before recognition, with all gates open: max error {self.recognised_open.max_error:.1e}"
            )
        return text


def describe_values(feeds: Sequence[dict[str, Array]]) -> dict[str, str]:
    """Return what values the inputs have that are not floats, such as "uint8 from 0 to 255"."""
    told = {}
    for name in feeds[0] if feeds else ():
        parts = [feed[name] for feed in feeds if feed[name].size]
        if not parts or parts[0].dtype.kind not in "biu":
            continue
        least, most = min(part.min() for part in parts), max(part.max() for part in parts)
        dtype = parts[0].dtype
        both = "true and false" if dtype.kind == "b" else f"{dtype} from {least} to {most}"
        told[name] = f"{dtype}, all {least}".lower() if least == most else both
    return told
