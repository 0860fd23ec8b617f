"""What outputs are worth against labels: top-1 accuracy, and metrics that a caller names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lccl.errors import UserError, first_line, kind_of, shown
from lccl.loading.importing import import_object
from lccl.numerics import Array

Direction = Literal["higher", "lower"]
"""Which values of a metric are better."""


@dataclass(frozen=True)
class Score:
    """A metric's value over all samples."""

    mean: float
    values: tuple[float, ...] | None = None
    """The value of each sample; None where the metric gives one number for all."""


@dataclass(frozen=True)
class Metric:
    """A function of a network's outputs and the labels.

    It is called with the outputs of all samples, an array whose first axis is the sample (a list of
    arrays where the network has several outputs), and with the labels, or None. It returns a value
    for each sample, or one number for all. The arrays are copies, so it may write into them.
    """

    name: str
    function: Callable[..., object]
    direction: Direction = "higher"

    def score(self, outputs: Sequence[Array], labels: Array | None) -> Score:
        """Return the metric of all samples.

        Raises:
            UserError: the function fails, or returns something else than numbers.
        """
        try:
            own = [np.array(output) for output in outputs]
            found = self.function(own[0] if len(own) == 1 else own, None if labels is None else np.array(labels))
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a SystemExit too, which would end this program
            raise UserError(f"the metric {self.name} raised {type(error).__name__}: {first_line(error)}") from error
        try:
            values = np.asarray(found, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"the metric {self.name} returns a number, or one for each sample, not {kind_of(found)}") from None
        samples = len(outputs[0])
        if values.shape not in ((), (samples,)):
            raise UserError(
                f"the metric {self.name} returns a number, or one for each of the {samples} samples, not {list(values.shape)}"
            )
        if not np.isfinite(values).all():
            raise UserError(f"the metric {self.name} gives NaN or infinity: check the outputs and the labels")
        return Score(float(values.mean()), tuple(values.tolist()) if values.ndim else None)

    def drop(self, before: float, after: float) -> float:
        """Return by how much a value is worse than another; below 0 where it is better."""
        return before - after if self.direction == "higher" else after - before


def metric_of(given: str | Callable[..., object], direction: str = "higher") -> Metric:
    """Return the metric that a caller names.

    Args:
        given: "pkg.module:function", or the function.
        direction: "higher" or "lower", whichever is better.

    Raises:
        UserError: there is no such function, or the direction is another word.
    """
    if direction not in ("higher", "lower"):
        raise UserError(f'the better values of a metric are "higher" or "lower", not {shown(direction)}')
    function = import_object(given, "metric") if isinstance(given, str) else given
    name = given if isinstance(given, str) else getattr(given, "__qualname__", "given")
    if not callable(function):
        raise UserError(f"the metric {name} is not callable; a metric is a function of outputs and labels")
    return Metric(name, function, direction)  # type: ignore[arg-type]


def predictions(outputs: Sequence[Array]) -> Array | None:
    """The classes that the first output predicts along axis 1; None where it has no such axis.

    A sample with a score that is not finite has class -1.
    """
    first = outputs[0]
    if first.ndim < 2 or first.shape[1] < 2:
        return None
    return np.where(np.isfinite(first).all(axis=1), first.argmax(axis=1), -1)


def top1(outputs: Sequence[Array], labels: Array | None) -> float | None:
    """The fraction of samples whose predicted class is the label.

    None without labels for these outputs.

    Raises:
        UserError: a label that is no class of the network.
    """
    classes = predictions(outputs)
    if classes is None or labels is None or classes.shape != np.shape(labels):
        return None
    known = np.arange(outputs[0].shape[1])
    impossible = labels[~np.isin(labels, known)] if labels.dtype.kind in "biuf" else labels
    if impossible.size:
        raise UserError(
            f"the data has the label {impossible.flat[0]}, but labels are the network's classes, whole numbers from 0 to {known[-1]}"
        )
    return float(np.mean(classes == labels))


def top_k_of(outputs: Sequence[Array], labels: Array | None, k: int) -> float | None:
    """The fraction of samples whose label is among the classes with the k largest scores.

    None without labels for these outputs. Of equal scores the first class counts as larger, as in
    :func:`top1`. A sample with a score that is not finite counts as wrong.

    Raises:
        UserError: the network has no more than k classes.
    """
    first = outputs[0]
    if labels is None or first.ndim < 2 or (first.shape[0], *first.shape[2:]) != np.shape(labels):
        return None
    if k >= first.shape[1]:
        raise UserError(f"top-{k} of {first.shape[1]} classes is every label: take a smaller k")
    own = np.take_along_axis(first, np.asarray(labels, np.int64)[:, None], 1)
    order = np.arange(first.shape[1]).reshape(-1, *(1,) * (first.ndim - 2))
    better = ((first > own) | ((first == own) & (order < np.asarray(labels)[:, None]))).sum(axis=1)
    return float(np.mean((better < k) & np.isfinite(first).all(axis=1)))
