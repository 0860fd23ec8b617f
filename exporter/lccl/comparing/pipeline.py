"""A gated network against dense ones: accuracy, agreement, latency, density and MACs, over the same inputs."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lccl.backends.batches import CHUNK
from lccl.comparing.contestants import Contestant, open_networks
from lccl.comparing.measure import LatencyPlan, all_outputs, latencies, predictions, top1
from lccl.comparing.results import Check, Comparison, Role, Row, Setting
from lccl.data import Data, as_data, load_data
from lccl.errors import UserError
from lccl.graph.feeds import input_types
from lccl.numerics import Array, not_finite
from lccl.op.onnx_op import is_lccl_node, register_schema
from lccl.profiling import NetworkProfile, profile
from lccl.progress import Progress, silent


@dataclass(frozen=True)
class Limits:
    """What a comparison has to hold to be true; None: no such limit."""

    min_agreement: float | None = None
    """Fraction of equal predictions between the runners of the LCCL network; needs two of them."""
    min_dense_agreement: float | None = None
    """Fraction of equal predictions between the LCCL and the dense network."""
    max_accuracy_drop: float | None = None
    """Top-1 of the dense network minus that of the LCCL one, in points (0.5 is half a percent)."""
    min_speedup: float | None = None
    """Median latency of the dense network / that of the LCCL one in the same runtime on the same device; every LCCL row with
    a dense one in its runtime has to hold it."""
    min_speedup_runner: str | None = None
    """The only runner whose rows ``min_speedup`` is held against, such as "onnxruntime-lccl"; None: those of all."""


def compare(
    networks: Any,
    data: Any,
    *,
    dense: Any = (),
    factory: str | Callable[[], Any] | None = None,
    dense_factory: str | Callable[[], Any] | None = None,
    twin: bool = True,
    threads: int = 1,
    latency: LatencyPlan | None = LatencyPlan(),  # noqa: B008 - frozen
    limits: Limits = Limits(),
    allow_skipped: bool = False,
    plugin_library: str | Path | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Runs the LCCL network and dense ones over the same inputs.

    Args:
        networks: the LCCL network as one or several of: a module, an ONNX model, a ``.pt``, ``.onnx`` or ``.engine``
            file. Errors are against the first. In PyTorch only, it is exported and run in ONNX Runtime too. In ONNX
            Runtime it runs through the op's function and, where the CPU op's library is here, with that, which skips.
        data: a path to an ``.npz`` file, "pkg.module:loader", arrays, (inputs, labels), or an iterable of batches.
        dense: a dense network, as ``networks``.
        factory, dense_factory: "pkg.module:callable", or the callable, for checkpoints that do not name their own.
        twin: also the LCCL network with every gate taken as 1, for latency.
        threads: CPU threads of each runtime. With 1 the runtimes cannot disturb each other in one process.
        latency: how to measure; None: do not.
        limits: what has to hold for the result to be true.
        allow_skipped: limits count although a named network could not run here; else that is an error.
        plugin_library: of engines that need the TensorRT plugin; by default the environment's or the installed one.
        progress: told each step.

    Raises:
        UserError: inputs or files that do not fit, or a limit that nothing here can be held to.
    """
    register_schema()
    inputs = load_data(data) if isinstance(data, (str, Path)) else as_data(data)
    plugin = Path(plugin_library) if plugin_library else None
    contestants = open_networks(_as_list(networks), "lccl", inputs, factory, threads, twin, progress, plugin)
    contestants += open_networks(_as_list(dense), "dense", inputs, dense_factory, threads, False, progress, plugin)
    if {"tensorrt", "tensorrt-rtx"} <= {c.runner.name for c in contestants}:
        raise UserError("engines of tensorrt and of tensorrt-rtx cannot run in one process: compare them one at a time")
    if not any(c.role == "lccl" and not c.skipped for c in contestants):
        reasons = "; ".join(f"{c.network}: {c.skipped}" for c in contestants if c.skipped)
        raise UserError(f"no runtime here can run the LCCL network ({reasons or 'none was given'})")
    skipped = [c for c in contestants if c.skipped and not c.optional]
    if skipped and limits != Limits() and not allow_skipped:
        reasons = "; ".join(f"{c.network}: {c.skipped}" for c in skipped)
        raise UserError(f"not every network can run here ({reasons}), so the limits prove nothing of it: pass --allow-skipped")
    _require_runner(contestants, limits)
    rows, outputs = _run(contestants, inputs, latency, progress)
    _require_finite_references(rows, outputs)
    rows = _against_references(rows, outputs)
    rows = tuple(_with_speedup(row, rows) for row in rows)
    batch = min(latency.batch, len(inputs)) if latency else 0
    setting = Setting(len(inputs), threads, batch, _cpu())
    return Comparison(rows, _profile(contestants, inputs, progress), _checks(rows, limits), setting)


def _require_runner(contestants: Sequence[Contestant], limits: Limits) -> None:
    """Raises:
    UserError: a runtime for the speed-up without a limit on it, or one that the LCCL network does not run in.
    """
    if limits.min_speedup_runner is None:
        return
    if limits.min_speedup is None:
        raise UserError("--min-speedup-runner goes with --min-speedup")
    runners = dict.fromkeys(c.runner.name for c in contestants if c.role == "lccl" and not c.skipped)
    if limits.min_speedup_runner not in runners:
        skipped = {c.runner.name: c.skipped for c in contestants if c.role == "lccl" and c.skipped}
        if limits.min_speedup_runner in skipped:
            raise UserError(f"{limits.min_speedup_runner} does not run here: {skipped[limits.min_speedup_runner]}")
        raise UserError(
            f"--min-speedup-runner is one that the LCCL network runs in here ({', '.join(runners)}), "
            f"not {limits.min_speedup_runner}"
        )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _run(
    contestants: Sequence[Contestant], data: Data, plan: LatencyPlan | None, progress: Progress
) -> tuple[tuple[Row, ...], list[list[Array] | None]]:
    """Rows with accuracy and latency, and the outputs of those that ran."""
    active = [c for c in contestants if not c.skipped]
    with contextlib.ExitStack() as stack:
        for contestant in active:
            stack.enter_context(contestant.runner)
        outputs, accuracies = {}, {}
        for contestant in active:
            progress(f"running {contestant.network} in {contestant.runner.name}")
            outputs[id(contestant)] = all_outputs(contestant.runner, data)
            accuracies[id(contestant)] = top1(outputs[id(contestant)], data.labels)
        times = latencies([c.runner for c in active], data, plan, progress) if plan else [None] * len(active)
    timed = dict(zip(map(id, active), times, strict=True))
    rows = []
    for c in contestants:
        row = Row(c.network, c.role, c.runner.name, c.runner.device, c.skipped)
        if not c.skipped:
            row = replace(row, accuracy=accuracies[id(c)], latency=timed[id(c)])
        rows.append(row)
    return tuple(rows), [outputs.get(id(c)) for c in contestants]


def _references(rows: tuple[Row, ...]) -> dict[Role, int]:
    """The first row of each network that ran."""
    return {row.role: i for i, row in reversed(list(enumerate(rows))) if not row.skipped}


def _require_finite_references(rows: tuple[Row, ...], outputs: list[list[Array] | None]) -> None:
    """Raises:
    UserError: NaN or infinity in what others are held against; all that are as broken would agree with it.
    """
    for role, i in _references(rows).items():
        if role != "dense twin" and not_finite({str(k): value for k, value in enumerate(outputs[i] or ())}) is not None:
            raise UserError(
                f"{rows[i].label} gives NaN or infinity on this data, so nothing can be held against it: check its weights "
                "and the range of the data"
            )


def _against_references(rows: tuple[Row, ...], outputs: list[list[Array] | None]) -> tuple[Row, ...]:
    """Each row against the first of its network; the first LCCL row's predictions against the dense network's."""
    first = _references(rows)
    return tuple(_against_reference(i, rows, outputs, first) for i in range(len(rows)))


def _against_reference(i: int, rows: tuple[Row, ...], outputs: list[list[Array] | None], first: dict[Role, int]) -> Row:
    row, own = rows[i], outputs[i]
    if own is None or row.role == "dense twin":
        return row
    same_network = first[row.role] != i
    reference = first[row.role] if same_network else first.get("dense") if row.role == "lccl" else None
    other = outputs[reference] if reference is not None else None
    if reference is None or other is None:
        return row
    found = replace(row, reference=rows[reference].label, agreement=_equal_predictions(own, other))
    if not same_network:
        return found
    maximum, mean = _errors(own, other)
    return replace(found, max_error=maximum, mean_error=mean)


def _equal_predictions(a: list[Array], b: list[Array]) -> float | None:
    first, second = predictions(a), predictions(b)
    if first is None or second is None or first.shape != second.shape:
        return None
    return float(np.mean(first == second))


def _errors(a: list[Array], b: list[Array]) -> tuple[float, float]:
    if [x.shape for x in a] != [x.shape for x in b]:
        raise UserError("the networks' outputs differ in number or shape, so they are not forms of the same network")
    difference = np.concatenate(
        [np.abs(x.astype(np.float64) - y.astype(np.float64)).ravel() for x, y in zip(a, b, strict=True)]
    )
    difference[np.isnan(difference)] = np.inf
    return float(difference.max(initial=0.0)), float(difference.mean())


def _with_speedup(row: Row, rows: tuple[Row, ...]) -> Row:
    """Against the dense network in the same runtime on the same device, or the dense twin where there is none; and against
    the twin in any case."""
    if row.role != "lccl":
        return row
    twin = _speedup(row, rows, "dense twin")
    ratio, over = _speedup(row, rows, "dense") or twin or (None, None)
    return replace(row, speedup=ratio, speedup_over=over, speedup_over_twin=twin[0] if twin else None)


def _speedup(row: Row, rows: tuple[Row, ...], role: Role) -> tuple[float, str] | None:
    """Over the first row of that role in the same runtime on the same device, and that row's label."""
    for other in rows:
        same = (other.role, other.runtime, other.device) == (role, row.runtime, row.device)
        if same and row.latency is not None and other.latency is not None:
            return other.latency.median_ms / row.latency.median_ms, other.label
    return None


def _checks(rows: tuple[Row, ...], limits: Limits) -> tuple[Check, ...]:
    ran = [row for row in rows if row.role == "lccl" and not row.skipped]
    dense = [row for row in rows if row.role == "dense" and not row.skipped]
    checks = []

    def check(name: str, limit: float | None, values: list[float], worst: str, needs: str) -> None:
        if limit is None:
            return
        if not values:
            raise UserError(f"--{name} needs {needs}")
        value = min(values) if worst == "min" else max(values)
        checks.append(Check(name, value, limit, value >= limit if worst == "min" else value <= limit))

    check(
        "min-agreement",
        limits.min_agreement,
        [r.agreement for r in ran[1:] if r.agreement is not None],
        "min",
        "a second runner of the LCCL network, such as its checkpoint beside its .onnx; "
        "--min-dense-agreement holds it against the dense network",
    )
    check(
        "min-dense-agreement",
        limits.min_dense_agreement,
        [r.agreement for r in ran[:1] if dense and r.agreement is not None],
        "min",
        "a dense network: --dense",
    )
    drops = [
        100 * (dense[0].accuracy - r.accuracy)
        for r in ran
        if dense and dense[0].accuracy is not None and r.accuracy is not None
    ]
    check("max-accuracy-drop", limits.max_accuracy_drop, drops, "max", "labels in the data and a dense network: --dense")
    only = limits.min_speedup_runner
    speedups = [r.speedup for r in ran if r.speedup is not None and only in (None, r.runner)]
    check(
        f"min-speedup ({only})" if only else "min-speedup",
        limits.min_speedup,
        speedups,
        "min",
        "latencies of the LCCL network and of a dense one in the same runtime on the same device",
    )
    return tuple(checks)


def _profile(contestants: Sequence[Contestant], data: Data, progress: Progress) -> NetworkProfile | None:
    """Of the first ONNX form of the LCCL network that has its gates as nodes."""
    protos = (c.proto for c in contestants if c.role == "lccl" and c.proto is not None)
    proto = next((p for p in protos if any(is_lccl_node(n) for n in p.graph.node)), None)
    if proto is None:
        return None
    progress("counting density and MACs")
    names = tuple(input_types(proto))
    return profile(proto, [data.feed(names, start, start + CHUNK) for start in range(0, len(data), CHUNK)])


def _cpu() -> str:
    """The processor's own name for itself, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
