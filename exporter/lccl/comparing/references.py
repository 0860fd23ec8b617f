"""Outputs against labels, and each row against its reference: errors, agreement, speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lccl.comparing.results import Role, Row
from lccl.errors import UserError
from lccl.metrics import predictions
from lccl.numerics import Array, not_finite

Outputs = Sequence[list[Array] | None]
"""The outputs of each row over all samples; None for a row that did not run."""


def against_references(rows: Sequence[Row], outputs: Outputs) -> tuple[Row, ...]:
    """The rows with errors, agreement and speed-up.

    Each row is held against the first of its network, and the first LCCL row against the baseline.

    Raises:
        UserError: a row that others are held against gives NaN or infinity, with which a row that
            is wrong in the same way would agree; or outputs differ in number or shape.
    """
    first = _references(rows)
    _require_finite(first, rows, outputs)
    rows = tuple(_against_reference(i, rows, outputs, first) for i in range(len(rows)))
    return tuple(with_speedup(row, rows) for row in rows)


def _references(rows: Sequence[Row]) -> dict[Role, int]:
    """The first row of each network that ran."""
    return {row.role: i for i, row in reversed(list(enumerate(rows))) if not row.skipped}


def _require_finite(first: dict[Role, int], rows: Sequence[Row], outputs: Outputs) -> None:
    for role, i in first.items():
        if role != "dense twin" and not_finite({str(k): value for k, value in enumerate(outputs[i] or ())}) is not None:
            raise UserError(
                f"{rows[i].label} gives NaN or infinity on this data, so nothing can be compared with it: check its weights "
                "and the range of the data"
            )


def _against_reference(i: int, rows: Sequence[Row], outputs: Outputs, first: dict[Role, int]) -> Row:
    row, own = rows[i], outputs[i]
    if own is None or row.role == "dense twin":
        return row
    same_network = first[row.role] != i
    reference = first[row.role] if same_network else first.get("baseline") if row.role == "lccl" else None
    other = outputs[reference] if reference is not None else None
    if reference is None or other is None:
        return row
    found = replace(row, reference=rows[reference].label, agreement=equal_predictions(own, other))
    if not same_network:
        return found
    maximum, mean = errors(own, other)
    return replace(found, max_error=maximum, mean_error=mean)


def equal_predictions(a: Sequence[Array], b: Sequence[Array]) -> float | None:
    """The fraction of samples with the same prediction.

    None where the predictions cannot be compared.
    """
    first, second = predictions(a), predictions(b)
    if first is None or second is None or first.shape != second.shape:
        return None
    return float(np.mean(first == second))


def errors(a: Sequence[Array], b: Sequence[Array]) -> tuple[float, float]:
    """The largest and the mean difference between two networks' outputs.

    Raises:
        UserError: the outputs differ in number or shape.
    """
    if [x.shape for x in a] != [x.shape for x in b]:
        raise UserError("the networks' outputs differ in number or shape, so they are not forms of the same network")
    difference = np.concatenate(
        [np.abs(x.astype(np.float64) - y.astype(np.float64)).ravel() for x, y in zip(a, b, strict=True)]
    )
    difference[np.isnan(difference)] = np.inf
    return float(difference.max(initial=0.0)), float(difference.mean())


def with_speedup(row: Row, rows: Sequence[Row]) -> Row:
    """An LCCL row with its speed-ups, in the same runtime on the same device.

    One is over the baseline, or the dense twin where there is no baseline; the other is always over
    the dense twin.
    """
    if row.role != "lccl":
        return row
    twin = _speedup(row, rows, "dense twin")
    ratio, over = _speedup(row, rows, "baseline") or twin or (None, None)
    return replace(row, speedup=ratio, speedup_over=over, speedup_over_twin=twin[0] if twin else None)


def _speedup(row: Row, rows: Sequence[Row], role: Role) -> tuple[float, str] | None:
    """The speed-up over the first row of that role, and that row's label.

    Only rows in this row's runtime and on its device count.
    """
    for other in rows:
        same = (other.role, other.runtime, other.device) == (role, row.runtime, row.device)
        if same and row.latency is not None and other.latency is not None:
            return other.latency.median_ms / row.latency.median_ms, other.label
    return None
