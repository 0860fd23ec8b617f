"""Times of several models over the same inputs, in turn: a slow spell of the machine hits all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.numerics import Array

Feed = dict[str, Array]
WARM_UP = 2
"""Runs of each model that are not timed; the op learns the density of its layers meanwhile."""
WARM_BELOW = 0.02
"""A run of fewer seconds follows one of the same model that is not timed, so that it finds its own
weights in the caches, as in a program that runs one network."""
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Setting:
    """What models are timed with."""

    feeds: tuple[Feed, ...]
    """Inputs, of which each round takes the next."""
    threads: int
    library: Path | None
    """Of custom ops."""


@dataclass(frozen=True)
class Times:
    """Seconds of several models: [models, rounds]."""

    seconds: Array

    @property
    def median(self) -> Array:
        """Of each model, in seconds."""
        return np.asarray(np.median(self.seconds, axis=1))

    def spread(self, model: int) -> tuple[float, float]:
        """Return the 10th and the 90th percentile of a model, in seconds."""
        low, high = np.percentile(self.seconds[model], (10, 90))
        return float(low), float(high)

    def ratio(self, model: int, other: int) -> float:
        """Return the median over the rounds of one model's time over another's."""
        return float(np.median(self.seconds[model] / self.seconds[other]))

    def wins(self, model: int, other: int) -> float:
        """Return the share of rounds in which one model was faster than another."""
        return float(np.mean(self.seconds[model] < self.seconds[other]))


def times_of(
    models: Sequence[onnx.ModelProto], setting: Setting, rounds: int, most_seconds: float, without: Sequence[int] = ()
) -> Times:
    """Time the models, interleaved.

    Args:
        models: canonical models or forms of them.
        setting: inputs, threads, library.
        rounds: how many times each model runs.
        most_seconds: the end of the measurement, after the round in which it falls and at least
            :data:`LEAST_ROUNDS`.
        without: places of models that run without the library.
    """
    runners = [
        OnnxRuntimeRunner(model, setting.threads, library=None if i in without else setting.library)
        for i, model in enumerate(models)
    ]
    rows: list[list[float]] = [[] for _ in runners]
    feeds = [setting.feeds] * len(runners)
    return Times(np.array(_timed(runners, feeds, rounds, most_seconds, rows)))


def interleaved(
    runners: Sequence[OnnxRuntimeRunner], feeds: Sequence[Feed], rounds: int, most_seconds: float
) -> list[list[float]]:
    """Time runners, each on inputs of its own, in turn.

    Returns:
        Seconds: for each runner, of each round.
    """
    return _timed(runners, [(feed,) for feed in feeds], rounds, most_seconds, [[] for _ in runners])


def _timed(
    runners: Sequence[OnnxRuntimeRunner],
    feeds: Sequence[tuple[Feed, ...]],
    rounds: int,
    most_seconds: float,
    rows: list[list[float]],
) -> list[list[float]]:
    with ExitStack() as stack:
        for runner, own in zip(runners, feeds, strict=True):
            stack.enter_context(runner)
            for i in range(WARM_UP):
                runner.infer(own[i % len(own)])
        done, end = 0, time.perf_counter() + most_seconds
        while done < rounds and (done < LEAST_ROUNDS or time.perf_counter() < end):
            # The order turns, since a model finds the caches as the one before has left them.
            for place in range(len(runners)):
                i = (place + done) % len(runners)
                feed = feeds[i][done % len(feeds[i])]
                if not rows[i] or rows[i][-1] < WARM_BELOW:
                    runners[i].infer(feed)
                began = time.perf_counter()
                runners[i].infer(feed)
                rows[i].append(time.perf_counter() - began)
            done += 1
    return rows
