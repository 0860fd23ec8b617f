"""Where a network computed: gate maps over some inputs, and the density of each sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from lccl.backends.batches import infer_all
from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.graph.gate_probe import with_gate_outputs
from lccl.numerics import Array

MOST_SHOWN = 4
"""Inputs over which maps are kept."""


@dataclass(frozen=True)
class GateLook:
    """What the gates of a network did."""

    inputs: Array
    """[n, H, W] or [n, H, W, 3] from 0 to 1: the first samples of the first image input; empty
    where no input is an image."""
    maps: Mapping[str, Array]
    """By layer, [n, Ho, Wo]: true where a pixel was computed."""
    densities: Mapping[str, Array]
    """By layer, [N]: the fraction of open pixels of each sample."""


def look(model: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]]) -> GateLook:
    """Run a canonical model over data and keep what its gates did.

    Args:
        model: with LCCLConv nodes.
        feeds: its inputs, batch after batch.
    """
    probing, probes = with_gate_outputs(model)
    pictures: list[Array] = []
    maps: dict[str, list[Array]] = {probe.node: [] for probe in probes}
    densities: dict[str, list[Array]] = {probe.node: [] for probe in probes}
    kept = 0
    with OnnxRuntimeRunner(probing) as runner:
        for feed in feeds:
            outputs = infer_all(runner, feed)
            wanted = max(0, MOST_SHOWN - kept)
            for probe in probes:
                opened = outputs[probe.gate][:, 0] > 0
                densities[probe.node].append(opened.mean(axis=(1, 2)))
                if wanted:
                    maps[probe.node].append(opened[:wanted])
            if wanted:
                pictures.append(_picture(feed, wanted))
                kept = sum(map(len, maps[probes[0].node]))
    return GateLook(
        np.concatenate(pictures)[:MOST_SHOWN] if pictures and all(p.size for p in pictures) else np.zeros((0, 1, 1)),
        {name: np.concatenate(parts)[:MOST_SHOWN] for name, parts in maps.items()},
        {name: np.concatenate(parts) for name, parts in densities.items()},
    )


def _picture(feed: Mapping[str, Array], most: int) -> Array:
    """Return the first input that is an image as grey values or colours from 0 to 1."""
    for values in feed.values():
        if values.ndim == 4 and values.shape[1] in (1, 3):
            x = np.asarray(values[:most], np.float32)
            low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
            scaled: Array = (x - low) / np.maximum(high - low, 1e-6)
            return scaled[:, 0] if x.shape[1] == 1 else scaled.transpose(0, 2, 3, 1)
    return np.zeros((0, 1, 1), np.float32)
