"""Runs of more samples than a runner takes at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lccl.backends.interface import Batches, Runner
from lccl.errors import UserError
from lccl.numerics import Array

CHUNK = 64
"""Samples of one inference when only the outputs matter."""


def common_batches(ranges: Sequence[Batches]) -> Batches:
    """The number of samples that suits every input.

    Raises:
        UserError: there is none.
    """
    common = Batches(
        max((r.least for r in ranges), default=1), min((r.most for r in ranges if r.most is not None), default=None)
    )
    if common.least not in common:
        raise UserError(f"the inputs take different numbers of samples: {', '.join(map(str, ranges))}")
    return common


def infer_all(runner: Runner, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of all samples of the feed, in as many inferences as the runner's batches need.

    Where fewer samples are left than the runner takes, the last one is repeated, and the outputs of
    the copies are dropped.

    Raises:
        UserError: an output whose rows are not the samples, where the samples do not fit one
            inference.
    """
    count = len(next(iter(feed.values())))
    if count in runner.batches:
        return runner.infer(feed)
    step = runner.batches.most or runner.batches.least
    parts = [_infer_padded(runner, {k: a[i : i + step] for k, a in feed.items()}) for i in range(0, count, step)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _infer_padded(runner: Runner, feed: Mapping[str, Array]) -> dict[str, Array]:
    count = len(next(iter(feed.values())))
    size = max(count, runner.batches.least)
    padded = {name: np.concatenate([a, np.repeat(a[-1:], size - count, axis=0)]) for name, a in feed.items()}
    outputs = runner.infer(padded)
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != size:
            raise UserError(
                f"the model takes {runner.batches} samples at a time, and output {name} of {size} has shape "
                f"{list(value.shape)}: its rows cannot be told apart"
            )
    return {name: value[:count] for name, value in outputs.items()}
