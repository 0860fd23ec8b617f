"""What real inputs do to the gates: the density of each layer, its spread, its clustering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.graph.gate_probe import with_gate_outputs
from lccl.numerics import Array


@dataclass(frozen=True)
class LayerDensity:
    """The density of one layer over the samples, 0 to 1."""

    median: float
    p10: float
    p90: float
    clustering: float
    """The share of open pixels whose right neighbour is open, less the density, over 1 less the
    density: 0 for scattered pixels, 1 for one area."""


def densities_over(model: onnx.ModelProto, feeds: Iterable[dict[str, Array]]) -> dict[str, LayerDensity]:
    """Run a canonical model with its gates as outputs, and return the density of each layer."""
    probing, probes = with_gate_outputs(model)
    shares: dict[str, list[Array]] = {probe.node: [] for probe in probes}
    pairs: dict[str, Array] = {probe.node: np.zeros(2) for probe in probes}
    with OnnxRuntimeRunner(probing) as runner:
        for feed in feeds:
            outputs = infer_all(runner, feed)
            for probe in probes:
                is_open = outputs[probe.gate] > 0
                shares[probe.node].append(is_open.mean(axis=(1, 2, 3)))
                left = is_open[..., :-1]
                pairs[probe.node] += (float((left & is_open[..., 1:]).sum()), float(left.sum()))
    return {name: _described(np.concatenate(found), *pairs[name]) for name, found in shares.items() if found}


def _described(shares: Array, both: float, left: float) -> LayerDensity:
    low, middle, high = np.percentile(shares, (10, 50, 90))
    mean = float(shares.mean())
    follows = both / left if left else mean
    clustering = (follows - mean) / (1 - mean) if mean < 1 else 0.0
    return LayerDensity(float(middle), float(low), float(high), float(np.clip(clustering, 0, 1)))
