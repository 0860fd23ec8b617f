"""The steps of tuning: measure each layer alone, order the cuts, measure on the way, choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lccl.console.progress import Progress, silent
from lccl.errors import Fix, UserError, leave_out, shown
from lccl.errors.arguments import (
    CALLABLE,
    COUNT,
    FACTORY,
    FILE,
    FLAG,
    NAME,
    NETWORK,
    NONE,
    NUMBER,
    WHOLE,
    one_of,
    takes,
)
from lccl.errors.requires import needing
from lccl.files import atomic_path, require_file, require_writable
from lccl.files.pictures import require_picture
from lccl.forms.costs import load_costs
from lccl.forms.network_costs import NetworkCosts
from lccl.loading.data import Data, DataSource, read_data
from lccl.loading.types import Factory, Network
from lccl.metrics import Direction, Metric, metric_of, predictions, top1
from lccl.numerics import Array
from lccl.profiling import NetworkProfile
from lccl.tuning.cuts import AS_BUILT, Setting, Tunable, settings_of
from lccl.tuning.results import TunedPoint, TuneResult
from lccl.tuning.search import Level, chosen_steps
from lccl.tuning.search import path as path_of

if TYPE_CHECKING:
    from lccl.loading.torch_file import LoadedModel

LEVELS = 5
"""Cuts of a layer; they keep open equal steps of the pixels that are open now."""
FEWEST_POINTS = 10


@dataclass(frozen=True)
class _Wanted:
    """What the chosen point has to keep."""

    drop: float | None
    """In the score's own unit."""
    density: float | None
    macs: float | None
    latency: float | None

    def reaches(self, point: TunedPoint) -> bool:
        """Return whether the point keeps the targets, whatever it loses."""
        pairs = ((point.density, self.density), (point.macs, self.macs), (point.latency, self.latency))
        return all(limit is None or (value is not None and value <= limit) for value, limit in pairs)

    @property
    def targets(self) -> bool:
        """Whether anything has to be reached, besides a limit on the drop."""
        return (self.density, self.macs, self.latency) != (None, None, None)


@takes(
    model=NETWORK,
    path=FILE | NONE,
    max_accuracy_drop=NUMBER | NONE,
    max_metric_drop=NUMBER | NONE,
    target_density=NUMBER | NONE,
    target_macs=NUMBER | NONE,
    target_latency=NUMBER | NONE,
    costs=FILE | NONE,
    threads=COUNT,
    foreign_costs=FLAG,
    metric=NAME | CALLABLE | NONE,
    metric_direction=one_of("higher", "lower"),
    points=WHOLE,
    open_layers=FLAG,
    close_layers=FLAG,
    picture=FILE | NONE,
    factory=FACTORY | NONE,
    state_dict_key=NAME | NONE,
    state_dict_prefix=NAME | NONE,
    progress=CALLABLE,
)
def tune(
    model: Network,
    data: DataSource,
    path: str | Path | None = None,
    *,
    max_accuracy_drop: float | None = None,
    max_metric_drop: float | None = None,
    target_density: float | None = None,
    target_macs: float | None = None,
    target_latency: float | None = None,
    costs: str | Path | None = None,
    threads: int = 1,
    foreign_costs: bool = False,
    metric: str | Callable[..., object] | None = None,
    metric_direction: Direction = "higher",
    points: int = 24,
    open_layers: bool = True,
    close_layers: bool = True,
    picture: str | Path | None = None,
    factory: Factory | None = None,
    state_dict_key: str | None = None,
    state_dict_prefix: str | None = None,
    progress: Progress = silent,
) -> TuneResult:
    """Make a trained network sparser, or less sparse, without training.

    It moves each gate's cut: the bias of a binary gate, else the threshold. Each layer is measured
    alone at some cuts, and open or closed as a whole. Then layers are cut one after another, by
    what they lose per MACs saved (with a table of costs: per microsecond), and some networks on
    that way are measured. With a limit on the drop alone, the cheapest one is chosen that keeps it;
    with a target, the best one that reaches it.

    Args:
        model: the gated network: a module, an ONNX model with LCCLConv nodes, or a file of either.
            It stays as it is.
        data: the calibration set, as for :func:`lccl.compare`. With labels the score is top-1
            accuracy, without them agreement with the network as built.
        path: the file to write, of the same kind as the model's; None: none.
        max_accuracy_drop: of top-1 or agreement, in percentage points below the network as built.
        max_metric_drop: of the metric, in its own unit.
        target_density: the mean density of the gated layers to reach.
        target_macs: the MACs of the whole network to reach, as a fraction of those of the dense
            one.
        target_latency: the time of the network's convolutions to reach, as a fraction of the dense
            network's, by ``costs``.
        costs: the table that ``lccl measure`` wrote of this network.
        threads: of one inference, those that the table has to be of.
        foreign_costs: take a table of another machine or of other threads, with a warning.
        metric: scores the outputs in place of accuracy: a function of outputs and labels, or its
            name; see :class:`lccl.metrics.Metric`.
        metric_direction: which of its values are better.
        points: how many networks on the way are measured, at least 10.
        open_layers, close_layers: whether whole layers may be opened, or closed.
        picture: draw the points there (.png, .svg or .pdf); needs matplotlib.
        factory, state_dict_key, state_dict_prefix: for a checkpoint, as for
            :func:`lccl.load_checkpoint`.
        progress: called with each step.

    Returns:
        The measured points, the chosen one, and the network with it.

    Raises:
        UserError: no limit or target is given, nothing that was measured keeps them, or the network
            or data cannot be used, or the table is of another machine or lacks a gated layer.
    """
    targets = {"density": target_density, "macs": target_macs, "latency": target_latency}
    wanted = _wanted(max_accuracy_drop, max_metric_drop, targets, metric)
    if target_latency is not None and costs is None:
        raise UserError("a target of latency needs the costs of this network's layers", Fix("costs", "costs.json"))
    table = None if costs is None else load_costs(costs, foreign=foreign_costs, threads=threads)
    if points < FEWEST_POINTS:
        raise UserError(f"at least {FEWEST_POINTS} points are measured, not {points}", Fix("points", FEWEST_POINTS))
    if path is not None:
        require_writable(path)
    if picture is not None:
        require_picture(picture)
    chosen_metric = None if metric is None else metric_of(metric, metric_direction)
    source = _open(model, data, path, factory, state_dict_key, state_dict_prefix)
    time = None if table is None or costs is None else NetworkCosts(table, costs, source.tunable.conv_shapes())
    search = _Search(source.tunable, source.data.labels, chosen_metric, time, progress)
    measured, built = search.along_the_way(points, wanted, opened=open_layers, closed=close_layers)
    best = _choose(measured, built, wanted, search)
    tuned = source.tunable.finished(best.settings, dict(best.densities))
    result = TuneResult(
        tuple(sorted(measured, key=lambda p: (-p.cost, -p.score))),
        built,
        best,
        search.name,
        len(source.data),
        chosen_metric.direction if chosen_metric else "higher",
        tuned,
    )
    if path is not None:
        _write(tuned, Path(path), source)
        result = replace(result, path=Path(path))
    if picture is not None:
        from lccl.tuning.picture import draw

        result = replace(result, picture=Path(picture))
        draw(result, Path(picture))
    return result


def _wanted(
    accuracy: float | None,
    metric_drop: float | None,
    targets: Mapping[str, float | None],
    metric: object,
) -> _Wanted:
    if metric is None and metric_drop is not None:
        raise UserError("a limit on the drop of a metric needs the metric", Fix("metric", "pkg.module:function"))
    if metric is not None and accuracy is not None:
        raise UserError("a limit on the drop of the accuracy does not go with a metric", Fix("max_metric_drop", accuracy))
    drop = metric_drop if metric is not None else None if accuracy is None else accuracy / 100
    if drop is None and all(value is None for value in targets.values()):
        raise UserError("tuning needs a limit or a target", (Fix("max_accuracy_drop", 0.5), Fix("target_macs", 0.5)))
    for name, value in targets.items():
        if value is not None and not 0 < value <= 1:
            raise UserError(
                f"a target of {'MACs' if name == 'macs' else name} is a fraction between 0 and 1, not {shown(value)}"
            )
    if drop is not None and drop < 0:
        raise UserError(f"a limit on the drop is a number from 0, not {shown(drop)}")
    return _Wanted(drop, **targets)


@dataclass(frozen=True)
class _Source:
    """The opened network and its data."""

    tunable: Any
    data: Data
    loaded: LoadedModel | None = None
    factory: Factory | None = None


def _open(
    model: Network,
    data: DataSource,
    path: str | Path | None,
    factory: Factory | None,
    key: str | None,
    prefix: str | None,
) -> _Source:
    file = require_file(model) if isinstance(model, (str, Path)) else None
    if file is not None and path is not None and Path(path).resolve() == file.resolve():
        raise UserError(f"{path} is the network to tune, which would be overwritten: choose another name")
    is_onnx = file.suffix == ".onnx" if file is not None else not _is_module(model)
    if path is not None and is_onnx != (Path(path).suffix == ".onnx"):
        raise UserError(
            f"{path}: a tuned network is written as what it was, {'an .onnx file' if is_onnx else 'a checkpoint (.pt)'}"
        )
    if is_onnx:
        with needing("lccl.tune"):
            from lccl.loading.onnx import load_onnx
            from lccl.profiling.of_onnx import axes_of_data
            from lccl.tuning.of_onnx import TunableOnnx

        given = [
            fix
            for fix, value in (
                (leave_out("factory"), factory),
                (leave_out("state_dict_key"), key),
                (leave_out("state_dict_prefix"), prefix),
            )
            if value is not None
        ]
        if given:
            raise UserError("an .onnx file has its network in it", given[0])
        inputs = read_data(data, axes_of_data([model]))
        return _Source(TunableOnnx(load_onnx(file) if file is not None else model, inputs), inputs)  # type: ignore[arg-type]
    from lccl.tuning.of_module import TunableModule

    inputs = read_data(data)

    if file is None:
        if path is not None:
            raise UserError("a module is returned, not written: save result.model with lccl.save_checkpoint")
        return _Source(TunableModule(model, inputs), inputs)  # type: ignore[arg-type]
    from lccl.loading.torch_file import load_model

    try:
        loaded = load_model(file, factory, state_dict_key=key, state_dict_prefix=prefix)
    except UserError as error:  # a file that runs code has no checkpoint to write again
        raise UserError(error.message, [fix for fix in error.fixes if fix.option != "unsafe_pickle"]) from error.__cause__
    return _Source(TunableModule(loaded.module, inputs), inputs, loaded, factory)


def _is_module(model: object) -> bool:
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _write(tuned: Any, path: Path, source: _Source) -> None:
    if source.loaded is None:
        from lccl.files.whole_file import write_whole
        from lccl.graph.metadata import set_metadata
        from lccl.version import __version__

        set_metadata(tuned, __version__, {"lccl.tuned": "yes"})
        with atomic_path(path) as temporary:
            write_whole(tuned, temporary)
        return
    from lccl.loading.checkpoint import save_checkpoint

    name = source.factory or source.loaded.factory
    if not isinstance(name, str):
        raise UserError(
            "the tuned checkpoint names its factory, so the factory is given by its name here",
            Fix("factory", "pkg.module:function"),
        )
    save_checkpoint(
        path, tuned, name, source.loaded.kwargs if name == source.loaded.factory else None, source.loaded.input_shape
    )


class _Search:
    """Measurements of one network with its gates set in several ways."""

    def __init__(
        self, tunable: Tunable, labels: Array | None, metric: Metric | None, time: NetworkCosts | None, progress: Progress
    ) -> None:
        self._tunable, self._labels, self._metric, self._time, self._progress = tunable, labels, metric, time, progress
        self._classes: Array | None = None
        self.name = metric.name if metric else "top-1"

    def along_the_way(self, points: int, wanted: _Wanted, *, opened: bool, closed: bool) -> tuple[list[TunedPoint], TunedPoint]:
        """Measure each layer alone, then networks on the way from the most costly down."""
        built, outputs = self._measure({})
        if self._metric is None and top1(outputs, self._labels) is None:
            if self._labels is not None:
                raise UserError(
                    f"the labels of shape {list(np.shape(self._labels))} are no classes of the network's first output, of shape "
                    f"{list(outputs[0].shape)}: give the inputs without labels, for agreement",
                    Fix("metric", "pkg.module:function"),
                )
            self.name, self._classes = "agreement", predictions(outputs)
            if self._classes is None:
                raise UserError(
                    "the network's first output has no classes, so its accuracy is not known",
                    Fix("metric", "pkg.module:function"),
                )
            built = replace(built, score=1.0)
        tie = self._smooth(outputs)
        values = self._tunable.gate_values()
        tried = {
            layer.name: settings_of(layer, values[layer.name], levels_of(len(values)), opened=opened, closed=closed)
            for layer in self._tunable.layers
        }
        singles: list[TunedPoint] = []
        curves, done, every = {}, 0, sum(map(len, tried.values())) - len(tried)
        for name, settings in tried.items():
            levels = []
            for setting in settings:
                if setting == AS_BUILT:
                    levels.append(Level(AS_BUILT, built.cost, 0.0))
                    continue
                self._progress(f"measuring {name}", done, every)
                point, outputs = self._measure({name: setting})
                singles.append(point)
                levels.append(Level(setting, point.cost, self.drop(built, point), self._smooth(outputs) - tie))
                done += 1
            curves[name] = levels
        steps = list(path_of(curves))
        found: dict[int, TunedPoint] = {}
        for step in chosen_steps(len(steps), points):
            self._progress("measuring on the way", len(found), min(len(steps), points))
            found[step] = self._measure(steps[step])[0]
        self._refine(steps, found, built, wanted)
        known = {tuple(sorted(p.changed.items(), key=str)): p for p in (*singles, *found.values()) if p.changed}
        return [built, *known.values()], built

    def _refine(
        self, steps: Sequence[dict[str, Setting]], found: dict[int, TunedPoint], built: TunedPoint, wanted: _Wanted
    ) -> None:
        """Measure between the last step that keeps the limits and the first that does not."""
        for _ in range(6):
            order = sorted(found)
            turns = [
                (a, b)
                for a, b in pairwise(order)
                if b - a > 1 and self._kept(found[a], built, wanted) != self._kept(found[b], built, wanted)
            ]
            if not turns:
                return
            a, b = turns[-1]
            self._progress("measuring at the limit")
            found[(a + b) // 2] = self._measure(steps[(a + b) // 2])[0]

    def _kept(self, point: TunedPoint, built: TunedPoint, wanted: _Wanted) -> bool:
        return wanted.reaches(point) if wanted.drop is None else self.drop(built, point) <= wanted.drop

    def drop(self, built: TunedPoint, point: TunedPoint) -> float:
        """Return by how much a point's score is worse than that of the network as built."""
        return self._metric.drop(built.score, point.score) if self._metric else built.score - point.score

    def _measure(self, settings: dict[str, Setting]) -> tuple[TunedPoint, list[Array]]:
        outputs, profile = self._tunable.run(settings)
        return self._point(settings, outputs, profile), outputs

    def _point(self, settings: dict[str, Setting], outputs: list[Array], profile: NetworkProfile) -> TunedPoint:
        if self._metric is not None:
            score = self._metric.score(outputs, self._labels).mean
        elif self._classes is not None:
            now = predictions(outputs)
            score = float(np.mean(now == self._classes))
        else:
            score = top1(outputs, self._labels) or 0.0
        densities = {layer.name: layer.density for layer in profile.gated if layer.density is not None}
        macs = profile.macs / max(1, profile.dense_macs)
        latency = None
        if self._time is not None:
            latency = self._time.fraction((layer.name, layer.dense_macs, layer.density) for layer in profile.layers)
        return TunedPoint(dict(settings), score, macs, profile.density or 0.0, densities, latency)

    def _smooth(self, outputs: list[Array]) -> float:
        """Return the mean cross-entropy, which tells settings apart that classify alike; else 0."""
        classes = self._classes if self._classes is not None else self._labels
        if self._metric is not None or classes is None or outputs[0].ndim != 2:
            return 0.0
        logits = outputs[0].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-likely[np.arange(len(likely)), np.asarray(classes, int)].mean())


def levels_of(layers: int) -> list[float]:
    """Return what cuts keep open of a layer's open pixels; more of them where layers are few."""
    count = max(LEVELS, -(-2 * FEWEST_POINTS // layers) if layers < LEVELS else 0)
    return [1 - (i + 1) / (count + 1) for i in range(count)]


def _choose(points: Sequence[TunedPoint], built: TunedPoint, wanted: _Wanted, search: _Search) -> TunedPoint:
    reached = [p for p in points if wanted.reaches(p)]
    kept = [p for p in reached if wanted.drop is None or search.drop(built, p) <= wanted.drop]
    if not kept:
        raise UserError(_why_none(points, reached, built, wanted, search))
    if not wanted.targets:
        return min(kept, key=lambda p: (p.cost, search.drop(built, p)))
    return min(kept, key=lambda p: (search.drop(built, p), p.cost))


def _why_none(
    points: Sequence[TunedPoint], reached: Sequence[TunedPoint], built: TunedPoint, wanted: _Wanted, search: _Search
) -> str:
    if not reached:
        least = min(points, key=lambda p: p.cost)
        what = f"the fewest MACs are {least.macs:.3f}" if least.latency is None else f"the shortest time is {least.latency:.3f}"
        return (
            f"no setting of the gates reaches the target; {what} of the dense network's at a mean density of "
            f"{least.density:.3f}: train to a lower density, or allow more"
        )
    best = min(reached, key=lambda p: search.drop(built, p))
    return (
        f"what reaches the target loses at least {search.drop(built, best):.4f} of {search.name}, and the limit is {wanted.drop:.4f}: "
        "allow a larger drop, or train to the target"
    )
