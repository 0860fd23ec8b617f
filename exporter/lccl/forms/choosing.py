"""A canonical model -> the fastest form of it on this machine, checked, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from lccl.backends.machine import machine_name
from lccl.console.progress import Progress
from lccl.errors import UserError
from lccl.forms.checking import check_forms
from lccl.forms.densities import LayerDensity, densities_over
from lccl.forms.layer_times import LayerTimes, layer_times
from lccl.forms.plan import Plan, Planned
from lccl.forms.results import Choice, Form, LayerChoice, NetworkTime
from lccl.forms.search import LIKELY_DENSE, Search, Trial, is_faster
from lccl.forms.timing import Feed, Setting, Times, times_of
from lccl.graph.gate_probe import set_densities
from lccl.graph.variants.dense import dense_twin
from lccl.op.contract import OP_TYPE

FINAL_ROUNDS = 60
FINAL_SECONDS = 20.0


@dataclass(frozen=True)
class Request:
    """What is asked of a choice."""

    feeds: tuple[Feed, ...]
    """Inputs of the batch that is timed."""
    samples: int
    """Real samples that the feeds are of; 0: random inputs."""
    threads: int
    batch: int
    library: Path
    isa: str
    given: Mapping[str, bool]
    """Gated layers whose form the caller chose: True for the op, False for standard ops."""
    baseline: onnx.ModelProto | None


@dataclass(frozen=True)
class Chosen:
    """The model to write, and its report."""

    model: onnx.ModelProto
    choice: Choice


def choose(model: onnx.ModelProto, request: Request, progress: Progress) -> Chosen:
    """Choose the form of each layer of a canonical model by measurement.

    Raises:
        UserError: a layer that the caller names is not in the model, or a form computes something
            else than the model.
    """
    planned = Planned.of(model)
    unknown = set(request.given) - set(planned.layers.gated)
    if unknown:
        raise UserError(f"the model has no gated layer {min(unknown)}; it has {', '.join(planned.layers.gated)}")
    progress("measuring densities")
    densities = densities_over(planned.model, request.feeds)
    set_densities(planned.model, {name: found.median for name, found in densities.items()})
    setting = Setting(request.feeds, request.threads, request.library)
    medians = {name: found.median for name, found in densities.items()}
    found = Search(planned, setting, medians, dict(request.given), progress=progress).run()
    progress("timing the whole network")
    forms = _forms(planned, found.plan, request)
    names = list(forms)
    without = [i for i, name in enumerate(names) if name in ("all in standard ops", "dense twin", "baseline")]
    times = times_of(list(forms.values()), setting, FINAL_ROUNDS, FINAL_SECONDS, without)
    written = "chosen" if request.given else _written(names, times)
    progress("holding the forms against the model")
    check_forms(planned.model, lambda changed: _as(written, changed, found.plan), request.feeds[:2], request.library)
    twin_times = layer_times(forms["dense twin"], setting)
    own_times = layer_times(forms[written], setting)
    before = layer_times(forms["the file as it was"], setting)
    plan = found.plan if written == "chosen" else Plan()
    layers = _layers(planned, plan, written, densities, found.trials, twin_times, own_times, request.given)
    choice = Choice(
        layers=layers,
        times=tuple(_network_time(i, names, times) for i in range(len(names))),
        written=written,
        threads=request.threads,
        batch=request.batch,
        samples=request.samples,
        isa=request.isa,
        machine=machine_name(),
        layout_changes=(before.count_of_layout_changes, own_times.count_of_layout_changes),
        trials=tuple(asdict(trial) for trial in found.trials),
    )
    return Chosen(_marked(forms[written]), choice)


def _marked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Note in a model whose layers are all in standard ops that these were gated."""
    if not any(node.op_type == OP_TYPE for node in model.graph.node):
        model.metadata_props.add(key="lccl.twin", value="decomposed")
    return model


def _forms(planned: Planned, plan: Plan, request: Request) -> dict[str, onnx.ModelProto]:
    every = Plan(standard=frozenset(planned.layers.gated))
    forms = {
        "chosen": planned.model_of(plan),
        "all gated": planned.model_of(Plan()),
        "all in standard ops": planned.model_of(every),
        "the file as it was": planned.model,
        "dense twin": dense_twin(planned.model),
    }
    return forms if request.baseline is None else forms | {"baseline": request.baseline}


_SAME_FUNCTION = ("chosen", "all gated", "all in standard ops", "the file as it was")


def _written(names: Sequence[str], times: Times) -> str:
    """Return the form of the same function to write: the chosen one if it is clearly the fastest.

    Else the fastest of the simple ones, among which nothing was chosen by looking at times.
    """
    simple = min(_SAME_FUNCTION[1:], key=lambda name: times.ratio(names.index(name), names.index("chosen")))
    return "chosen" if is_faster(times, names.index("chosen"), names.index(simple)) else simple


def _as(form: str, model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Return another model with the same layers in a form."""
    planned = Planned.of(model)
    if form == "all gated":
        plan = Plan()
    elif form == "all in standard ops":
        plan = Plan(standard=frozenset(planned.layers.gated))
    return planned.model if form == "the file as it was" else planned.model_of(plan)


def _network_time(place: int, names: Sequence[str], times: Times) -> NetworkTime:
    low, high = times.spread(place)
    ratio = times.ratio(place, names.index("chosen"))
    return NetworkTime(names[place], 1e3 * float(times.median[place]), 1e3 * low, 1e3 * high, ratio)


# ---- reasons -------------------------------------------------------------------------------------


def _layers(
    planned: Planned,
    plan: Plan,
    written: str,
    densities: Mapping[str, LayerDensity],
    trials: Sequence[Trial],
    twin: LayerTimes,
    own: LayerTimes,
    given: Mapping[str, bool],
) -> tuple[LayerChoice, ...]:
    if written == "all in standard ops":
        plan = Plan(standard=frozenset(planned.layers.gated))
    names = [n.name for n in planned.model.graph.node if n.name in {*planned.layers.gated, *planned.layers.joinable}]
    rows = []
    for name in names:
        gated = name in densities
        form: Form = "joined" if name in plan.joined else "dense"
        if gated:
            form = "standard ops" if name in plan.standard else "gated"
        reason = "as you chose" if name in given else _reason(name, form, densities.get(name), trials)
        dense, chosen = twin.layers.get(name), own.layers.get(name)
        rows.append(LayerChoice(name, form, reason, _micro(dense), _micro(chosen), densities.get(name)))
    return tuple(rows)


def _reason(name: str, form: Form, density: LayerDensity | None, trials: Sequence[Trial]) -> str:
    own = [trial for trial in trials if trial.layers == (name,)]
    if own:
        last = own[-1]
        return f"{'with' if last.taken else 'without it; with'} {last.form} the network takes {last.ratio:.3f} of its time"
    shared = [trial for trial in trials if name in trial.layers and len(trial.layers) > 1]
    if density is not None and density.median < LIKELY_DENSE and form == "gated" and shared:
        return f"density below {LIKELY_DENSE:.0%}; all layers in standard ops take {shared[-1].ratio:.2f} of the time"
    return f"tried with others: {shared[-1].ratio:.3f} of the time with {shared[-1].form}" if shared else ""


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e6 * seconds, 1)
