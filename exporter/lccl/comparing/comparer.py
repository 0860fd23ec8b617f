"""Runs of a gated network and dense ones over the same inputs, and limits on the results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from lccl.backends.batches import CHUNK
from lccl.backends.machine import machine_name
from lccl.comparing.candidates import Candidate, Opening, open_networks
from lccl.comparing.limits import Limits, check_limits
from lccl.comparing.measure import LatencyPlan, all_outputs, latencies, require_samples, throughputs
from lccl.comparing.references import Outputs, against_references
from lccl.comparing.report.gate_look import look
from lccl.comparing.report.report import Extras, require_report, training_figure, tuning_figure, versions, write_report
from lccl.comparing.requirements import require_metric, require_running
from lccl.comparing.results import Comparison, Environment, Row
from lccl.console.progress import Progress, silent
from lccl.errors import Fix, UserError
from lccl.errors.arguments import (
    CALLABLE,
    COUNT,
    FACTORY,
    FILE,
    FLAG,
    NAME,
    NETWORK,
    NONE,
    TEXT,
    THREADS,
    Kind,
    one_of,
    sequence_of,
    takes,
)
from lccl.errors.deprecation import renamed_keywords
from lccl.files import require_writable
from lccl.graph.inputs import input_types
from lccl.loading.data import Data, DataSource, read_data
from lccl.loading.types import Factory, Network
from lccl.metrics import Direction, Metric, metric_of, top1, top_k_of
from lccl.op.onnx_op import is_lccl_node, register_schema
from lccl.profiling import NetworkProfile
from lccl.profiling.of_onnx import axes_of_data, profile_canonical

NETWORKS = NETWORK | sequence_of(NETWORK, "a list of these")
PLAN = Kind("a LatencyPlan", lambda value: isinstance(value, LatencyPlan))
LIMITS = Kind("Limits", lambda value: isinstance(value, Limits))


@renamed_keywords(dense="baseline", dense_factory="baseline_factory", twin="dense_twin")
@takes(
    networks=NETWORKS,
    baseline=NETWORKS | NONE,
    factory=FACTORY | NONE,
    baseline_factory=FACTORY | NONE,
    state_dict_key=NAME | NONE,
    baseline_state_dict_key=NAME | NONE,
    state_dict_prefix=NAME | NONE,
    baseline_state_dict_prefix=NAME | NONE,
    unsafe_pickle=FLAG,
    dense_twin=FLAG,
    threads=THREADS,
    latency=PLAN | NONE,
    limits=LIMITS,
    allow_skipped=FLAG,
    plugin_library=FILE | NONE,
    metric=NAME | CALLABLE | NONE,
    metric_direction=one_of("higher", "lower"),
    top_k=COUNT | NONE,
    html=FILE | NONE,
    tuning=FILE | NONE,
    training=FILE | NONE,
    command=TEXT,
    progress=CALLABLE,
)
def compare(
    networks: Network | Sequence[Network],
    data: DataSource,
    *,
    baseline: Network | Sequence[Network] | None = None,
    factory: Factory | None = None,
    baseline_factory: Factory | None = None,
    state_dict_key: str | None = None,
    baseline_state_dict_key: str | None = None,
    state_dict_prefix: str | None = None,
    baseline_state_dict_prefix: str | None = None,
    unsafe_pickle: bool = False,
    dense_twin: bool = True,
    threads: int = 1,
    latency: LatencyPlan | None = LatencyPlan(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
    allow_skipped: bool = False,
    plugin_library: str | Path | None = None,
    metric: str | Callable[..., object] | None = None,
    metric_direction: Direction = "higher",
    top_k: int | None = None,
    html: str | Path | None = None,
    tuning: str | Path | None = None,
    training: str | Path | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Comparison:
    """Run the LCCL network and dense ones over the same inputs.

    Args:
        networks: the LCCL network as one or several of: a module, an ONNX model, a ``.pt``,
            ``.onnx`` or ``.engine`` file. Errors are against the first. A network that is given in
            PyTorch only is exported and run in ONNX Runtime too. In ONNX Runtime it runs through
            the function body and, where the CPU op's library is here, with that, which skips closed
            pixels.
        data: a path to an ``.npz`` file, a folder of images, "pkg.module:loader", arrays, (inputs,
            labels), or an iterable of batches.
        baseline: the dense network to beat, as ``networks``.
        factory: builds the LCCL network of a checkpoint that does not name its own factory:
            "pkg.module:callable", or the callable.
        baseline_factory: builds the baseline, in the same way.
        state_dict_key: the key of the state dict in a nested checkpoint of the LCCL network.
        baseline_state_dict_key: the key of the state dict in a nested checkpoint of the baseline.
        state_dict_prefix: what the names of the LCCL network's weights begin with in a checkpoint,
            such as "model.", where others are beside them.
        baseline_state_dict_prefix: the same for the baseline's weights.
        unsafe_pickle: allow pickled modules, torch.export archives and TorchScript among the
            ``.pt`` files of both networks, which run code from the file.
        dense_twin: also run the LCCL network with every gate taken as 1, for latency.
        threads: CPU threads of each runtime. With 1 the runtimes cannot disturb each other in one
            process.
        latency: how to measure; None: do not.
        limits: what has to be reached for the result to be true.
        allow_skipped: hold to the limits although a named network could not run here; else that is
            an error.
        plugin_library: the TensorRT plugin that engines need; by default the one that the
            environment names, or the installed one.
        metric: also scores each row's outputs, but for dense twins: a function of outputs and
            labels, or "pkg.module:function"; see :class:`lccl.metrics.Metric`.
        metric_direction: which of its values are better, "higher" or "lower".
        top_k: also count the samples whose label is among so many classes with the largest scores.
        html: write the result as one HTML file there, with charts and gate maps; needs Jinja2 and
            matplotlib.
        tuning: a JSON file of ``lccl tune``, whose points the HTML file shows.
        training: a JSON file of ``lccl.train.FitResult.as_dict()``, whose course it shows.
        command: the words that the HTML file says it was made by.
        progress: called with each step.

    Returns:
        A row for each network in each runtime, the LCCL network's profile, and the limits.

    Raises:
        UserError: inputs or files that do not fit, or a limit for which nothing here can be
            measured.
    """
    extras = _extras(html, tuning, training, command)
    register_schema()
    named = None if metric is None else metric_of(metric, metric_direction)
    require_metric(limits, named)
    inputs = read_data(data, axes_of_data([*_as_list(networks), *_as_list(baseline)]))
    require_samples(inputs, latency)
    plugin = Path(plugin_library) if plugin_library else None
    opening = Opening(
        "lccl", inputs, factory, state_dict_key, state_dict_prefix, unsafe_pickle, threads, dense_twin, plugin, progress
    )
    candidates = open_networks(_as_list(networks), opening)
    opening = replace(
        opening,
        role="baseline",
        factory=baseline_factory,
        state_dict_key=baseline_state_dict_key,
        state_dict_prefix=baseline_state_dict_prefix,
        dense_twin=False,
    )
    candidates += open_networks(_as_list(baseline), opening)
    require_running(candidates, limits, allow_skipped)
    rows, outputs = _run(candidates, inputs, latency, (named, top_k), progress)
    rows = against_references(rows, outputs)
    batch = min(latency.batch, len(inputs)) if latency else 0
    environment = Environment(len(inputs), threads, batch, machine_name(), top_k, latency.warmup if latency else 0)
    shown = f"{named.name}, {named.direction} is better" if named else None
    profile = _profile(candidates, inputs, progress)
    result = Comparison(rows, profile, check_limits(rows, limits, named), environment, shown)
    if html is not None:
        progress("writing the report")
        _report(html, result, candidates, inputs, extras)
    return result


def _extras(html: str | Path | None, tuning: str | Path | None, training: str | Path | None, command: str) -> Extras:
    """Read what the HTML file shows besides, before anything is run.

    Raises:
        UserError: something is missing or of another kind.
    """
    if html is None:
        if tuning is not None or training is not None:
            raise UserError("the course of a tuning or a training is shown in an HTML file", Fix("html", "report.html"))
        return Extras()
    require_writable(html)
    require_report()
    return Extras(
        tuning=None if tuning is None else tuning_figure(tuning),
        training=None if training is None else training_figure(training),
        command=command,
    )


def _report(html: str | Path, result: Comparison, candidates: Sequence[Candidate], data: Data, extras: Extras) -> None:
    """Write the HTML file, with what the gates did and what a build for ONNX Runtime chose."""
    proto = _gated_proto(candidates)
    seen = None if proto is None else look(proto, data.chunks(tuple(input_types(proto)), CHUNK))
    decisions = {name: row for c in candidates for name, row in c.decisions.items()}
    write_report(html, result, replace(extras, look=seen, decisions=decisions, versions=versions()))


def _as_list(value: Network | Sequence[Network] | None) -> list[Network]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]  # type: ignore[list-item]


def _run(
    candidates: Sequence[Candidate],
    data: Data,
    plan: LatencyPlan | None,
    scored: tuple[Metric | None, int | None],
    progress: Progress,
) -> tuple[tuple[Row, ...], Outputs]:
    """Rows with accuracy and latency, and the outputs of those that ran; by a metric and a k."""
    metric, k = scored
    active = [c for c in candidates if not c.skipped]
    with contextlib.ExitStack() as stack:
        for candidate in active:
            stack.enter_context(candidate.runner)
        outputs, accuracies = {}, {}
        tops: dict[int, float | None] = {}
        for candidate in active:
            progress(f"running {candidate.network} in {candidate.runner.name}")
            outputs[id(candidate)] = all_outputs(candidate.runner, data)
            accuracies[id(candidate)] = top1(outputs[id(candidate)], data.labels)
            tops[id(candidate)] = None if k is None else top_k_of(outputs[id(candidate)], data.labels, k)
        runners = [c.runner for c in active]
        times = latencies(runners, data, plan, progress) if plan else [None] * len(active)
        rates: list[dict[int, float]] = throughputs(runners, data, plan.throughput, progress) if plan else [{} for _ in active]
    timed = dict(zip(map(id, active), times, strict=True))
    rated = dict(zip(map(id, active), rates, strict=True))
    rows = []
    for c in candidates:
        row = Row(c.network, c.role, c.runner.name, c.runner.device, c.skipped)
        if not c.skipped:
            row = replace(row, accuracy=accuracies[id(c)], latency=timed[id(c)], throughput=rated[id(c)], top_k=tops[id(c)])
            if metric is not None and c.role != "dense twin":
                score = metric.score(outputs[id(c)], data.labels)
                row = replace(row, metric=score.mean, metric_values=score.values)
        rows.append(row)
    return tuple(rows), [outputs.get(id(c)) for c in candidates]


def _profile(candidates: Sequence[Candidate], data: Data, progress: Progress) -> NetworkProfile | None:
    """The profile of the first ONNX form of the LCCL network that has its gates as nodes."""
    proto = _gated_proto(candidates)
    if proto is None:
        return None
    progress("counting density and MACs")
    return profile_canonical(proto, data.chunks(tuple(input_types(proto)), CHUNK))


def _gated_proto(candidates: Sequence[Candidate]) -> onnx.ModelProto | None:
    """The first ONNX form of the LCCL network that has its gates as nodes."""
    protos = (c.proto for c in candidates if c.role == "lccl" and c.proto is not None)
    return next((p for p in protos if any(is_lccl_node(n) for n in p.graph.node)), None)
