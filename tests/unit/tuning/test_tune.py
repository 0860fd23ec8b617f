"""Gates that are cut after training: what is measured, chosen and written, for modules and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lccl
from conftest import ROOT
from lccl.cli.tune import command
from lccl.data import as_data
from lccl.forms.costs import CostTable, LayerCost, Machine
from lccl.graph.variants.precision import to_precision
from lccl.loading.checkpoint import set_thresholds
from lccl.nn import LCCLConv2d
from lccl.tuning.cuts import AS_BUILT, GatedLayer, Setting, settings_of
from lccl.tuning.of_module import TunableModule
from lccl.tuning.of_onnx import TunableOnnx
from lccl.tuning.search import Level, chosen_steps, path

DATA = "support.tuned_networks:calibration"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "tests"))
    yield
    sys.path.remove(str(ROOT / "tests"))


@pytest.fixture(scope="module", params=["relu", "binary"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    """A small trained network whose gates are half open."""
    from support.tuned_networks import trained

    return trained(request.param)


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    lccl.export(network, torch.randn(1, 3, 8, 8), file)
    return file


def densities(model: Any) -> dict[str, float]:
    from support.tuned_networks import calibration

    return {layer.name: layer.density for layer in lccl.profile(model, [calibration()[0]]).gated}  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["module", "onnx"])
def test_a_target_is_reached_and_the_rest_is_as_measured(network: nn.Module, exported: Path, form: str) -> None:
    """The chosen network, run again, is what was measured; the given one has not changed."""
    given: Any = network if form == "module" else onnx.load(exported)
    before = densities(given)
    result = lccl.tune(given, _data(), target_macs=0.55)
    assert len(result.points) >= 10
    assert result.chosen.macs <= 0.55 < result.built.macs
    assert result.chosen in result.points
    assert densities(result.model) == pytest.approx(dict(result.chosen.densities))
    assert densities(given) == before == pytest.approx(dict(result.built.densities))
    assert result.chosen.score == max(p.score for p in result.points if p.macs <= 0.55)
    assert (result.score, result.as_dict()["direction"]) == ("top-1", "higher")
    assert json.loads(json.dumps(result.as_dict()))["chosen"]["macs"] == result.chosen.macs
    assert "chosen" in str(result)


def table_of(network: nn.Module, path: Path, **changes: Any) -> Path:
    """A table in which the first gated layer's pixels cost ten times those of the others."""
    layers = []
    for i, (c, k) in enumerate([(3, 6), (6, 6)]):
        slope = 1000.0 if i else 50.0
        times = {"kxk": {"0.0": 10.0, "1.0": 10.0 + slope}}
        layers.append(LayerCost(f"l{i}", (3, 3), c, k, (1, 1), (8, 8), 9 * c * k * 64, slope, times, (1, 1), times))
    CostTable(
        Machine.here(), **{"threads": 1, "batch": 1, "versions": {}, "commands": (), "layers": tuple(layers)} | changes
    ).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", ["module", "onnx"])
def test_a_target_of_latency(network: nn.Module, exported: Path, form: str, tmp_path: Path) -> None:
    """The time is the table's: of a stem without a gate and three layers at their densities, over all dense."""
    given: Any = network if form == "module" else onnx.load(exported)
    costs = table_of(network, tmp_path / "costs.json")
    result = lccl.tune(given, _data(), target_latency=0.4, costs=costs, picture=tmp_path / "p.svg", points=10)
    for point in (result.built, result.chosen):
        time = 50 + sum(10 + 1000 * density for density in point.densities.values())
        assert point.latency == pytest.approx(time / 3050, rel=1e-4) == point.cost
    assert result.chosen.latency <= 0.4 < result.built.latency  # type: ignore[operator]
    assert result.chosen.score == max(p.score for p in result.points if p.cost <= 0.4)
    assert "time of dense" in str(result)
    assert "time of all convolutions" in (tmp_path / "p.svg").read_text().replace("<!-- ", "")
    assert result.as_dict()["chosen"]["latency"] == result.chosen.latency  # type: ignore[index]
    with pytest.raises(lccl.UserError, match="the shortest time is"):
        lccl.tune(given, _data(), target_latency=0.01, costs=costs, points=10)


@pytest.mark.slow
def test_costs_of_elsewhere(network: nn.Module, tmp_path: Path) -> None:
    path = table_of(network, tmp_path / "costs.json", threads=2)
    with pytest.raises(lccl.UserError, match="costs of 2 threads, not of 1: measure here: pass threads=2"):
        lccl.tune(network, _data(), target_latency=0.4, costs=path)
    path = table_of(network, tmp_path / "costs.json", layers=())
    with pytest.raises(lccl.UserError, match=r"has no cost of .* with a kxk gate: measure this network with lccl measure"):
        lccl.tune(network, _data(), target_latency=0.4, costs=path)


@pytest.mark.slow
def test_both_forms_mean_the_same_by_a_setting(network: nn.Module, exported: Path) -> None:
    """A gate that is cut, opened or closed in a module and in the exported file computes the same pixels."""
    data = as_data(_data())
    forms = TunableModule(network, data), TunableOnnx(onnx.load(exported), data)
    assert forms[0].layers == forms[1].layers
    values = [form.gate_values() for form in forms]
    for layer in forms[0].layers:
        own, other = (np.sort(v[layer.name]) for v in values)
        np.testing.assert_allclose(own, other, atol=1e-3)
        for setting in settings_of(layer, own, (0.5,), opened=True, closed=True):
            (y, profile), (z, twin) = (form.run({layer.name: setting}) for form in forms)
            np.testing.assert_allclose(y[0], z[0], atol=1e-4)
            found = [{p.name: p.density for p in q.gated}[layer.name] for q in (profile, twin)]
            edge = setting.value if layer.cut == "threshold" else -setting.value
            wanted = {"open": 1.0, "closed": 0.0}.get(setting.state, float((own > edge).mean()))
            assert found == pytest.approx([wanted] * 2, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_the_command_writes_what_it_was_given(
    network: nn.Module, exported: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, tuned, picture = exported, tmp_path / f"tuned{suffix}", tmp_path / "pareto.png"
    options = []
    if suffix == ".pt":
        given = tmp_path / "given.pt"
        lccl.save_checkpoint(given, network, "support.tuned_networks:dense", input_shape=(3, 8, 8))
        options = ["--factory", "support.tuned_networks:dense"]
    words = [
        given,
        "-o",
        tuned,
        "--data",
        DATA,
        "--max-accuracy-drop",
        "3",
        "--picture",
        picture,
        "--json",
        "--quiet",
        *options,
    ]
    assert command(list(map(str, words))) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["built"]["score"] - found["chosen"]["score"] <= 0.03
    assert found["chosen"]["macs"] == min(p["macs"] for p in found["points"] if found["built"]["score"] - p["score"] <= 0.03)
    assert len(found["points"]) >= 10
    assert picture.read_bytes()[:4] == b"\x89PNG"
    loaded: Any = tuned if suffix == ".onnx" else lccl.load_checkpoint(tuned, options[1])
    assert densities(loaded) == pytest.approx(found["chosen"]["densities"])
    if suffix == ".onnx":
        written = {
            n.name: next(a.f for a in n.attribute if a.name == "density")
            for n in onnx.load(tuned).graph.node
            if n.attribute and n.domain == "lccl"
        }
        assert written == pytest.approx(found["chosen"]["densities"])
    else:
        again = lccl.export(loaded, torch.randn(1, 3, 8, 8), tmp_path / "again.onnx")
        assert densities(again.path) == pytest.approx(found["chosen"]["densities"], abs=0.01)


def test_thresholds_of_a_factory_that_builds_the_gates_are_kept(tmp_path: Path) -> None:
    from support.tuned_networks import built

    for file in (tmp_path / "a.pt", tmp_path / "a.safetensors"):
        model = built()
        model[0].gate_threshold = 0.25
        lccl.save_checkpoint(file, model, "support.tuned_networks:built")
        loaded = lccl.load_checkpoint(file, built)
        assert [m.gate_threshold for m in loaded if isinstance(m, LCCLConv2d)] == [0.25, 0.0]
    with pytest.raises(lccl.UserError, match=r"the threshold 0\.25 for 0, which is no gated layer"):
        set_thresholds(nn.Sequential(nn.Identity()), {"0": 0.25}, tmp_path)


def test_a_threshold_of_0_is_kept_too(tmp_path: Path) -> None:
    """Where the factory builds another one."""
    from support.tuned_networks import built

    def other() -> nn.Module:
        model = built()
        model[0].gate_threshold = 0.5
        return model

    lccl.save_checkpoint(tmp_path / "a.pt", built(), "support.tuned_networks:built")
    assert lccl.load_checkpoint(tmp_path / "a.pt", other)[0].gate_threshold == 0  # type: ignore[index]


@pytest.mark.slow
def test_logits_of_float16_are_read_as_they_are(network: nn.Module, exported: Path) -> None:
    half = to_precision(onnx.load(exported), "fp16")
    images = _data()[0]
    own = TunableModule(network, as_data(images)).gate_values()
    other = TunableOnnx(half, as_data(images)).gate_values()
    for name, values in own.items():
        np.testing.assert_allclose(np.sort(values), np.sort(other[name]), rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_a_gate_from_outside_is_cut_only(tmp_path: Path) -> None:
    layer = LCCLConv2d(3, 4, 3, padding=1, gate="external").eval()
    x, gate = torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    lccl.export(layer, (x, gate), tmp_path / "m.onnx")
    data = as_data({"x": x.numpy(), "gate": gate.numpy()})
    for form in (TunableModule(layer, data), TunableOnnx(onnx.load(tmp_path / "m.onnx"), data)):
        assert [layer.fixed for layer in form.layers] == [True]


def test_labels_that_do_not_fit_are_refused(network: nn.Module) -> None:
    images, labels = _data()
    with pytest.raises(lccl.UserError, match="are no classes of the network's first output"):
        lccl.tune(network, [(images, labels[:, None])], max_accuracy_drop=1)


def _data() -> Any:
    from support.tuned_networks import calibration

    return calibration()


def lowest(outputs: Any, labels: Any) -> Any:
    """The cross-entropy of each sample: lower is better."""
    return F.cross_entropy(torch.from_numpy(outputs), torch.from_numpy(labels), reduction="none").numpy()


@pytest.mark.slow
def test_a_metric_in_place_of_accuracy(network: nn.Module) -> None:
    result = lccl.tune(network, _data(), metric=lowest, metric_direction="lower", max_metric_drop=0.1, points=10)
    assert result.score == "lowest"
    assert result.chosen.score <= result.built.score + 0.1
    assert result.chosen.macs < result.built.macs


@pytest.mark.slow
def test_without_labels_it_is_agreement(network: nn.Module) -> None:
    result = lccl.tune(network, _data()[0], max_accuracy_drop=10, points=10)
    assert result.score == "agreement"
    assert result.built.score == 1
    assert result.chosen.score >= 0.9


@pytest.mark.slow
def test_what_cannot_be_reached_is_said(network: nn.Module) -> None:
    with pytest.raises(lccl.UserError, match="no setting of the gates reaches the target; the fewest MACs are"):
        lccl.tune(network, _data(), target_macs=0.01, points=10)
    with torch.no_grad():
        built = network(torch.from_numpy(_data()[0])).numpy()

    def same(outputs: Any, labels: Any) -> float:
        return float(np.allclose(outputs, built, atol=1e-5))

    with pytest.raises(lccl.UserError, match=r"loses at least 1\.0000 of .*same, and the limit is 0\.5000"):
        lccl.tune(network, _data(), target_density=0.3, metric=same, max_metric_drop=0.5, points=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a limit or a target: pass max_accuracy_drop=0.5, or target_macs=0.5"),
        ({"max_metric_drop": 1}, "needs the metric"),
        ({"target_macs": 2}, "between 0 and 1"),
        ({"target_latency": 0.5}, "needs the costs of this network's layers: pass costs='costs.json'"),
        ({"target_latency": 0.5, "costs": "nowhere.json"}, "no such file"),
        ({"max_accuracy_drop": -1}, "a number from 0"),
        ({"max_accuracy_drop": 1, "points": 3}, "at least 10 points"),
        ({"max_accuracy_drop": 1, "picture": "p.xyz"}, "is no name of a picture"),
        ({"max_accuracy_drop": 1, "path": "x.onnx"}, "a checkpoint"),
        ({"max_accuracy_drop": 1, "path": "x.pt"}, "returned, not written"),
        ({"metric": "nowhere:f", "max_metric_drop": 1}, "cannot import nowhere"),
        ({"model": nn.Conv2d(3, 3, 1), "target_macs": 0.5}, "no lccl.nn.LCCLConv2d"),
        ({"model": 3, "target_macs": 0.5}, "model takes a torch.nn.Module, an ONNX model or the path of a file, not 3"),
    ],
    ids=str,
)
def test_wrong_use(options: dict[str, Any], message: str) -> None:
    from support.tuned_networks import built

    with pytest.raises(lccl.UserError) as raised:
        lccl.tune(**{"model": built(), "data": _data()} | options)
    assert message in str(raised.value)


# ---- the search: numbers alone ---------------------------------------------------------------------------------------------


def _levels(*rows: tuple[str, float, float]) -> list[Level]:
    return [Level(AS_BUILT if name == "as built" else Setting(name), cost, lost) for name, cost, lost in rows]  # type: ignore[arg-type]


def test_what_loses_least_per_cost_comes_first() -> None:
    curves = {
        "a": _levels(("open", 12, -0.1), ("as built", 10, 0.0), ("cut", 8, 0.02), ("closed", 5, 0.5)),
        "b": _levels(("open", 11, 0.1), ("as built", 10, 0.0), ("closed", 4, 0.03)),
    }
    steps = [tuple(s.state for s in step.values()) for step in path(curves)]
    assert steps == [("open", "as built"), ("open", "closed"), ("cut", "closed"), ("closed", "closed")]


def test_settings_of_a_layer() -> None:
    values = np.asarray([0, 0, 0, 0, 1, 2, 3, 4], np.float32)
    found = settings_of(GatedLayer("a", "threshold"), values, (0.5, 0.75), opened=True, closed=True)
    assert [s.state for s in found] == ["open", "as built", "cut", "cut", "closed"]
    assert [float((values > s.value).mean()) for s in found if s.state == "cut"] == [3 / 8, 2 / 8]
    raised = settings_of(GatedLayer("a", "threshold", threshold=1.5), values, (0.5,), opened=False, closed=False)
    assert [(s.state, s.value) for s in raised] == [("cut", 0.0), ("as built", 0.0), ("cut", 3.5)]
    binary = settings_of(GatedLayer("a", "bias"), values - 2, (0.5,), opened=False, closed=False)
    assert [(s.state, s.value) for s in binary] == [("cut", 0.5), ("as built", 0.0), ("cut", -1.5)]
    outside = settings_of(GatedLayer("a", "bias", fixed=True), values, (0.5,), opened=True, closed=True)
    assert [s.state for s in outside] == ["cut", "as built", "cut"]
    assert [s.value for s in outside] == [-0.5, 0.0, -2.5]


@pytest.mark.parametrize(("count", "most"), [(5, 10), (10, 10), (100, 10)])
def test_steps_that_are_measured(count: int, most: int) -> None:
    found = chosen_steps(count, most)
    assert found[0] == 0
    assert found[-1] == count - 1
    assert len(found) == min(count, most)
