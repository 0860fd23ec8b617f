"""Runs of more samples than a runner takes at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lccl.backends.interface import Runner
from lccl.errors import UserError
from lccl.numerics import Array, count_samples, sample_axis, take_samples

CHUNK = 64
"""Samples of one inference when only the outputs matter."""


def infer_all(runner: Runner, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of all samples of the feed, in as many inferences as the runner's batches need.

    Inputs that are the same for all samples go into each inference. Where fewer samples are left
    than the runner takes, the last one is repeated, and the outputs of the copies are dropped.

    Raises:
        UserError: inputs of different numbers of samples; an output without an axis of the samples,
            where these do not fit one inference.
    """
    axes = runner.axes.inputs
    count = count_samples(feed, axes)
    if count in runner.batches:
        return runner.infer(feed)
    step = runner.batches.most or runner.batches.least
    parts = [_infer_padded(runner, take_samples(feed, axes, i, i + step)) for i in range(0, count, step)]
    return joined(runner, parts)


def joined(runner: Runner, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The outputs of several inferences as those of all their samples."""
    places = {name: sample_axis(name, value, runner.axes.outputs) or 0 for name, value in parts[0].items()}
    return {name: np.concatenate([part[name] for part in parts], axis=axis) for name, axis in places.items()}


def _infer_padded(runner: Runner, feed: Mapping[str, Array]) -> dict[str, Array]:
    axes = runner.axes
    count = count_samples(feed, axes.inputs)
    size = max(count, runner.batches.least)
    rows = np.minimum(np.arange(size), count - 1)
    places = {name: sample_axis(name, value, axes.inputs) for name, value in feed.items()}
    padded = {n: a if (axis := places[n]) is None else np.take(a, rows, axis=axis) for n, a in feed.items()}
    outputs = runner.infer(padded)
    for name, value in outputs.items():
        axis = sample_axis(name, value, axes.outputs)
        if axis is None or value.shape[axis] != size:
            raise UserError(
                f"the model takes {runner.batches} samples at a time, and output {name} of {size} has shape "
                f"{list(value.shape)}: its rows cannot be told apart"
            )
    return take_samples(outputs, axes.outputs, 0, count)
