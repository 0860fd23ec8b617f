"""Comparisons: rows, references, limits and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import lccl
from conftest import Outcome
from lccl.backends.interface import Batches
from lccl.backends.tensorrt.runner import gpu_missing
from lccl.comparing import Check, Comparison, Environment, LatencyPlan, Limits
from lccl.comparing.limits import _metric_drop, _metric_limit
from lccl.comparing.measure import latencies, require_samples, throughputs
from lccl.comparing.results import Row
from lccl.data import as_data, load_data
from lccl.errors import Fix
from lccl.graph.batch_axes import BatchAxes
from lccl.metrics import metric_of, top_k_of
from lccl.models.resnet import cifar_resnet
from support.graphs.models import run

COMPARE = "lccl.cli.compare"
Invoke = Callable[..., Outcome]
QUICK = LatencyPlan(warmup=1, runs=12)


@pytest.fixture(scope="module")
def dense_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model = cifar_resnet(8, 4, in_channels=1, gated="none").eval()
    path = tmp_path_factory.mktemp("dense") / "dense.pt"
    kwargs = {"depth": 8, "width": 4, "in_channels": 1, "gated": "none"}
    lccl.save_checkpoint(path, model, "lccl.models.resnet:cifar_resnet", kwargs, (1, 16, 16))
    return path


@pytest.fixture(scope="module")
def comparison(checkpoint: Path, exported: Path, dense_checkpoint: Path, samples: Path) -> Any:
    return lccl.compare([checkpoint, exported], samples, baseline=dense_checkpoint, latency=QUICK)


@pytest.mark.slow
def test_rows(comparison: Any) -> None:
    assert [(r.network, r.role, r.runner) for r in comparison.rows] == [
        ("small.pt", "lccl", "torch"),
        ("small.onnx", "lccl", "onnxruntime"),
        ("small.onnx", "lccl", "onnxruntime-lccl"),
        ("dense twin of small.onnx", "dense twin", "onnxruntime"),
        ("dense.pt", "baseline", "torch"),
        ("dense.pt", "baseline", "onnxruntime"),
    ]


@pytest.mark.slow
def test_errors_are_against_the_first_row_of_the_network(comparison: Any) -> None:
    first, second, _, twin, dense, dense_ort = comparison.rows
    assert second.reference == first.label
    assert second.max_error < 1e-5
    assert second.mean_error <= second.max_error
    assert second.agreement == 1
    assert first.reference == dense.label
    assert first.max_error is None, "two different networks have no error between them"
    assert dense_ort.reference == dense.label
    assert twin.reference is None


@pytest.mark.slow
def test_accuracy_is_that_of_the_labels(comparison: Any, checkpoint: Path, exported: Path, samples: Path) -> None:
    with np.load(samples) as content:
        x, labels = torch.from_numpy(content["x"]), content["labels"]
    predicted = lccl.load_checkpoint(checkpoint)(x).argmax(1).numpy()
    assert comparison.rows[0].accuracy == np.mean(predicted == labels)
    of_twin = run(onnx.load(exported.with_suffix(".dense.onnx")), {"x": x.numpy()}).argmax(1)
    assert comparison.rows[3].accuracy == np.mean(of_twin == labels)


@pytest.mark.slow
def test_speedups_are_within_one_runtime(comparison: Any) -> None:
    first, second, skipping, twin, dense, dense_ort = comparison.rows
    assert first.speedup_over == dense.label
    assert second.speedup_over == dense_ort.label
    assert second.speedup == dense_ort.latency.median_ms / second.latency.median_ms
    assert dense.speedup is None
    assert (first.speedup_over_twin, dense_ort.speedup_over_twin) == (None, None)
    assert second.speedup_over_twin == twin.latency.median_ms / second.latency.median_ms
    text = str(comparison)
    assert "\nSpeed-up: over dense.pt, in the same runtime.\n" in text
    assert f"\nOver the dense twin: small.onnx (onnxruntime) {second.speedup_over_twin:.2f}x" in text
    assert comparison.as_dict()["rows"][1]["speedup_over_twin"] == second.speedup_over_twin
    for row in comparison.rows:
        if row is skipping and row.skipped:
            continue
        assert row.latency.runs == QUICK.runs
        assert 0 < row.latency.median_ms <= row.latency.p95_ms


def test_without_a_dense_network_the_twin_is_the_measure(exported: Path, samples: Path) -> None:
    result = lccl.compare(exported, samples, latency=QUICK)
    assert result.rows[0].speedup_over == "dense twin of small.onnx (onnxruntime)"
    assert result.rows[0].agreement is None
    assert "\nSpeed-up: over the dense twin, in the same runtime.\n" in str(result)
    assert "Over the dense twin" not in str(result)


def test_the_decomposed_file_is_a_form_of_the_network(exported: Path, samples: Path) -> None:
    result = lccl.compare([exported, exported.with_suffix(".decomposed.onnx")], samples, latency=None, dense_twin=False)
    assert [(r.network, r.runner) for r in result.rows] == [
        ("small.onnx", "onnxruntime"),
        ("small.onnx", "onnxruntime-lccl"),
        ("small.decomposed.onnx", "onnxruntime"),  # nothing in it that the CPU op could skip
    ]
    assert result.rows[2].max_error < 1e-5


@pytest.mark.slow
def test_the_profile_is_of_the_same_inputs(comparison: Any, exported: Path, samples: Path) -> None:
    with np.load(samples) as content:
        assert comparison.profile == lccl.profile(exported, [content["x"]])


@pytest.mark.slow
def test_text_and_json_tell_the_environment(comparison: Any) -> None:
    text = str(comparison)
    assert "1 CPU thread" in text
    assert "20 inputs" in text
    assert "stages.0.0.conv1" in text
    values = json.loads(json.dumps(comparison.as_dict()))
    assert values["passed"] is True
    assert len(values["rows"]) == 6
    assert values["profile"]["layers"]
    assert values["environment"]["cpu"]
    assert values["setting"] == values["environment"], "by its old name too, until 0.3"
    assert values["held"] is values["passed"]


def test_json_has_the_old_names_of_keys_until_0_3() -> None:
    environment = Environment(images=1, threads=1, batch=1, cpu="a CPU")
    checks = (Check("min-agreement", 1.0, 0.9, True), Check("min-speedup", 0.5, 1.0, False))
    values = Comparison((), None, checks, environment).as_dict()
    assert values["held"] is values["passed"] is False
    assert values["setting"] == values["environment"]
    assert [(c["held"], c["passed"]) for c in values["checks"]] == [(True, True), (False, False)]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_module_alone_is_exported_too(small_model: torch.nn.Module) -> None:
    x = np.zeros((3, 1, 16, 16), np.float32)
    result = lccl.compare(small_model, x, latency=None, dense_twin=False)
    assert [r.runner for r in result.rows] == ["torch", "onnxruntime", "onnxruntime-lccl"]
    assert result.rows[1].max_error < 1e-5


def test_a_wrong_network_shows(exported: Path, samples: Path, checkpoint: Path) -> None:
    """The comparison has teeth: another network's file beside the checkpoint does not agree with it."""
    model = onnx.load(exported)
    tensor = next(t for t in model.graph.initializer if t.name == "classifier.bias")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.linspace(-9, 9, 10).astype(np.float32), tensor.name))
    limits = Limits(min_agreement=0.99)
    result = lccl.compare([checkpoint, model], samples, latency=None, limits=limits)
    assert result.rows[1].agreement < 0.5
    assert result.rows[1].max_error > 1
    assert not result
    assert [c.passed for c in result.checks] == [False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (("--min-agreement", "1"), 0),
        (("--max-accuracy-drop", "100"), 0),
        (("--max-accuracy-drop", "-100"), 2),
        (("--min-speedup", "0.0001"), 0),
        (("--min-speedup", "1000"), 2),
        (("--min-dense-agreement", "0"), 0),
        (("--min-dense-agreement", "1"), 2),
        (("--min-agreement", "1", "--min-speedup", "1000"), 2),
    ],
)
def test_exit_codes(
    invoke: Invoke, checkpoint: Path, exported: Path, dense_checkpoint: Path, samples: Path, limits: tuple[str, ...], code: int
) -> None:
    runs = ("--runs", "12" if "--min-speedup" in limits else "0")
    outcome = invoke(COMPARE, checkpoint, exported, "--baseline", dense_checkpoint, "--data", samples, *runs, *limits)
    assert outcome.code == code, outcome
    assert ("FAILED" in outcome.out) == (code == 2)


@pytest.mark.slow
def test_the_speedup_of_one_runner(
    invoke: Invoke, checkpoint: Path, exported: Path, dense_checkpoint: Path, samples: Path
) -> None:
    arguments = (checkpoint, exported, "--baseline", dense_checkpoint, "--data", samples, "--json")
    limit = ("--runs", "12", "--min-speedup", "0.0001")
    outcome = invoke(COMPARE, *arguments, *limit, "--min-speedup-runner", "onnxruntime")
    values = json.loads(outcome.out)
    row = next(r for r in values["rows"] if r["runner"] == "onnxruntime")
    assert [(c["name"], c["value"]) for c in values["checks"]] == [("min-speedup (onnxruntime)", row["speedup"])]
    for name in ("tensorrt", "onxruntime"):
        outcome = invoke(COMPARE, *arguments, *limit, "--min-speedup-runner", name)
        assert outcome.code == 1
        assert outcome.err == f"error: {json.loads(outcome.out)['error']}\n"
        assert re.search(rf"runs in here \(torch, onnxruntime(, onnxruntime-lccl)?\), not {name}\n", outcome.err)
    outcome = invoke(COMPARE, *arguments, "--runs", "0", "--min-speedup-runner", "torch")
    assert outcome.err.endswith("but no such limit is set: pass --min-speedup 1.0\n")
    fix = json.loads(outcome.out)["fix"]
    assert (fix["option"], fix["owner"]) == ("min_speedup", "limits")


def test_json_command(invoke: Invoke, exported: Path, samples: Path) -> None:
    outcome = invoke(COMPARE, exported, "--data", samples, "--runs", "0", "--json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["rows"][0]["latency"] is None


@pytest.mark.slow
def test_an_engine_without_a_gpu_is_told_not_run(exported: Path, samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: pip install 'lccl[rtx]'")
    if gpu_missing() is None:
        pytest.skip("there is a GPU here, so the engine runs")
    lccl.build_engine(exported, tmp_path / "m.engine", backend="tensorrt-rtx")
    result = lccl.compare([exported, tmp_path / "m.engine"], samples, latency=None)
    row = next(r for r in result.rows if r.runner == "tensorrt-rtx")
    assert row.skipped == "no NVIDIA GPU here"
    assert "Not run: m.engine (tensorrt-rtx): no NVIDIA GPU here." in str(result)
    limits = Limits(max_accuracy_drop=100)
    with pytest.raises(lccl.UserError, match="not every network can run here"):
        lccl.compare([exported, tmp_path / "m.engine"], samples, latency=None, limits=limits)
    with pytest.raises(lccl.UserError, match="no runtime here can run"):
        lccl.compare([tmp_path / "m.engine"], samples)


class Counting:
    """A runner that tells the order of its calls."""

    device = "none"

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls
        self.input_names, self.batches, self.axes = ("x",), Batches(), BatchAxes()

    def infer(self, feed: Any) -> dict[str, Any]:
        self.calls.append(self.name)
        return {"y": feed["x"]}


def test_rounds_are_interleaved_in_random_order() -> None:
    calls: list[str] = []
    runners: Any = [Counting(n, calls) for n in "abc"]
    times = latencies(runners, as_data(np.zeros((5, 1))), LatencyPlan(warmup=2, runs=10), lambda *a: None)
    rounds = [calls[i : i + 6] for i in range(0, len(calls), 6)]
    assert len(rounds) == 12
    assert all(sorted(r) == ["a", "a", "b", "b", "c", "c"] for r in rounds)
    assert all(r[::2] == r[1::2] for r in rounds), "an untimed run of the same network comes first"
    assert len({"".join(r) for r in rounds}) >= 4, "whom one follows changes"
    assert [t.runs for t in times] == [10, 10, 10]


class Loader:
    """Like a DataLoader."""

    def __iter__(self):
        for i in range(3):
            yield torch.full((2, 1, 4, 4), float(i)), torch.tensor([i, i])


@pytest.mark.parametrize(
    ("value", "length", "labels"),
    [
        (np.zeros((3, 2)), 3, None),
        ((np.zeros((3, 2)), np.arange(3)), 3, [0, 1, 2]),
        ({"a": np.zeros((3, 2)), "b": np.zeros((3, 4)), "y": np.arange(3)}, 3, [0, 1, 2]),
        ([np.zeros((3, 2)), np.zeros((2, 2))], 5, None),
        (Loader(), 6, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_forms_of_data(value: Any, length: int, labels: list[int] | None) -> None:
    data = as_data(value)
    assert len(data) == length
    assert (None if data.labels is None else list(data.labels)) == labels


def test_a_loader_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_loader_module.py").write_text("import numpy as np\ndef load():\n    return np.ones((4, 2)), np.arange(4)\n")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("my_loader_module:load")) == 4


def test_a_gated_network_is_no_dense_one(checkpoint: Path, exported: Path, samples: Path) -> None:
    for network in (checkpoint, exported):
        with pytest.raises(lccl.UserError, match="has gates, so it is not a dense network"):
            lccl.compare(exported, samples, baseline=network, latency=None)


def test_a_dense_network_is_named_as_the_caller_named_it(exported: Path, samples: Path) -> None:
    dense = exported.with_suffix(".dense.onnx")
    with pytest.raises(lccl.UserError, match=f"the baseline: pass baseline={re.escape(repr(str(dense)))}$"):
        lccl.compare(dense, samples)
    with pytest.raises(lccl.UserError, match=r"^the network has no LCCLConv node.* compare with it as the baseline$"):
        lccl.compare(onnx.load(dense), samples)


def test_options_of_latencies_and_limits_are_named_with_their_owner(exported: Path, samples: Path) -> None:
    with pytest.raises(lccl.UserError, match=r"pass limits=lccl\.Limits\(min_speedup=1\.0\)$"):
        lccl.compare(exported, samples, latency=None, limits=Limits(min_speedup_runner="onnxruntime"))


@pytest.mark.slow
def test_a_factory_may_be_the_callable(small_model: torch.nn.Module, samples: Path, tmp_path: Path) -> None:
    torch.save(small_model.state_dict(), tmp_path / "weights.pt")

    def build() -> torch.nn.Module:
        return cifar_resnet(8, 4, in_channels=1, gated="both")

    result = lccl.compare(tmp_path / "weights.pt", samples, factory=build, latency=None, dense_twin=False)
    assert [r.runner for r in result.rows] == ["torch", "onnxruntime", "onnxruntime-lccl"]


def test_options_may_stand_between_files(invoke: Invoke, checkpoint: Path, exported: Path, samples: Path) -> None:
    assert invoke(COMPARE, checkpoint, "--runs", "0", exported, "--data", samples).code == 0


def test_float64_is_taken_as_float32(exported: Path) -> None:
    data = as_data(np.zeros((2, 1, 16, 16)))
    assert data.inputs["input"].dtype == np.float32
    assert lccl.compare(exported, data, latency=None)


# ---- checkpoints of other forms -------------------------------------------------------------------------------------------


@pytest.fixture
def nested(small_model: torch.nn.Module, dense_checkpoint: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A gated and a dense checkpoint, each with two state dicts of which "ema" fits."""
    paths = tmp_path / "gated.pt", tmp_path / "baseline.pt"
    for path, weights in zip(
        paths, (small_model.state_dict(), lccl.load_checkpoint(dense_checkpoint).state_dict()), strict=True
    ):
        torch.save({"raw": {"w": torch.zeros(1)}, "ema": weights}, path)
    return paths


def gated_network() -> torch.nn.Module:
    return cifar_resnet(8, 4, in_channels=1, gated="both")


def dense_network() -> torch.nn.Module:
    return cifar_resnet(8, 4, in_channels=1, gated="none")


@pytest.mark.slow
def test_each_nested_checkpoint_has_its_own_key(nested: tuple[Path, Path], samples: Path) -> None:
    gated, dense = nested
    options: dict[str, Any] = {"factory": gated_network, "baseline_factory": dense_network, "latency": None}
    with pytest.raises(lccl.UserError, match="holds several state dicts") as caught:
        lccl.compare(gated, samples, baseline=dense, **options)
    assert caught.value.fixes == (Fix("state_dict_key", "raw"),)
    with pytest.raises(lccl.UserError, match="holds several state dicts") as caught:
        lccl.compare(gated, samples, baseline=dense, state_dict_key="ema", **options)
    assert caught.value.fixes == (Fix("baseline_state_dict_key", "raw"),)
    keys = {"state_dict_key": "ema", "baseline_state_dict_key": "ema"}
    assert len(lccl.compare(gated, samples, baseline=dense, **keys, **options).rows) == 6


@pytest.mark.slow
def test_a_key_of_a_network_without_a_checkpoint(exported: Path, checkpoint: Path, samples: Path) -> None:
    with pytest.raises(lccl.UserError, match=r"needs a checkpoint, but none is given: leave out baseline_state_dict_key$"):
        lccl.compare(checkpoint, samples, baseline=exported, baseline_state_dict_key="ema")
    with pytest.raises(lccl.UserError, match=r"with one state dict: leave out state_dict_key$"):
        lccl.compare(checkpoint, samples, state_dict_key="ema")


@pytest.mark.slow
def test_the_command_loads_what_its_message_names(
    invoke: Invoke, small_model: torch.nn.Module, dense_checkpoint: Path, samples: Path, tmp_path: Path
) -> None:
    torch.save(small_model, tmp_path / "gated.pt")
    torch.save(lccl.load_checkpoint(dense_checkpoint), tmp_path / "dense.pt")
    words = (tmp_path / "gated.pt", "--baseline", tmp_path / "dense.pt", "--data", samples, "--runs", "0")
    refused = invoke(COMPARE, *words)
    assert (refused.code, "--unsafe-pickle if you trust the file" in refused.err) == (1, True)
    assert invoke(COMPARE, *words, "--unsafe-pickle").code == 0


@pytest.mark.slow
def test_a_baseline_in_torchscript(exported: Path, dense_checkpoint: Path, samples: Path, tmp_path: Path) -> None:
    traced = torch.jit.trace(lccl.load_checkpoint(dense_checkpoint), torch.zeros(1, 1, 16, 16))  # type: ignore[no-untyped-call]
    traced.save(str(tmp_path / "dense.pt"))
    result = lccl.compare(exported, samples, baseline=tmp_path / "dense.pt", latency=None, unsafe_pickle=True)
    assert [r.runner for r in result.rows if r.role == "baseline"] == ["torch", "onnxruntime"]


@pytest.mark.slow
def test_the_command_has_a_key_for_each_network(
    invoke: Invoke, nested: tuple[Path, Path], checkpoint: Path, samples: Path
) -> None:
    gated, dense = nested
    build = "lccl.models.resnet:cifar_resnet"
    of_gated = invoke(COMPARE, gated, "--factory", build, "--data", samples)
    assert "pass --state-dict-key raw" in of_gated.err
    assert (
        "has no state dict under 'x'"
        in invoke(COMPARE, gated, "--factory", build, "--data", samples, "--state-dict-key", "x").err
    )
    of_dense = (COMPARE, checkpoint, "--baseline", dense, "--baseline-factory", build, "--data", samples)
    assert "pass --baseline-state-dict-key raw" in invoke(*of_dense).err
    assert "has no state dict under 'x'" in invoke(*of_dense, "--baseline-state-dict-key", "x").err


# ---- metrics that a caller names ------------------------------------------------------------------------------------------


def margin(outputs: Any, labels: Any) -> Any:
    """How far the label's score is above the mean of all: a value for each sample, higher is better."""
    return outputs[np.arange(len(outputs)), labels] - outputs.mean(1)


@pytest.fixture(scope="module")
def scored(checkpoint: Path, exported: Path, dense_checkpoint: Path, samples: Path) -> Callable[..., Any]:
    def compare(**options: Any) -> Any:
        return lccl.compare([checkpoint, exported], samples, baseline=dense_checkpoint, latency=None, **options)

    return compare


@pytest.mark.slow
def test_a_metric_is_a_column_with_values_for_each_sample(scored: Callable[..., Any], samples: Path, checkpoint: Path) -> None:
    found = scored(metric=margin)
    data = load_data(samples)
    images = next(iter(data.inputs.values()))
    with torch.no_grad():
        expected = margin(lccl.load_checkpoint(checkpoint)(torch.from_numpy(images)).numpy(), data.labels)
    first, twin = found.rows[0], next(r for r in found.rows if r.role == "dense twin")
    assert first.metric == pytest.approx(expected.mean(), abs=1e-5)
    assert first.metric_values == pytest.approx(expected, abs=1e-4)
    assert (twin.metric, twin.metric_values) == (None, None)
    assert "Metric: margin, higher is better." in str(found)
    assert re.search(r"top-1 +metric +agrees", str(found))
    assert json.loads(json.dumps(found.as_dict()))["rows"][0]["metric_values"] == list(first.metric_values)


@pytest.mark.slow
def test_limits_on_a_metric_know_its_direction(scored: Callable[..., Any]) -> None:
    found = scored(metric=margin)
    own = [r.metric for r in found.rows if r.role == "lccl" and r.metric is not None]
    base = next(r.metric for r in found.rows if r.role == "baseline")
    for direction, sign, worst in (("higher", 1, min(own)), ("lower", -1, max(own))):
        drop = sign * (base - worst)
        for slack, passed in ((1e-3, True), (-1e-3, False)):
            limits = Limits(metric_limit=worst - sign * slack, max_metric_drop=drop + slack)
            checks = scored(metric=margin, metric_direction=direction, limits=limits).checks
            assert [(c.name, c.passed) for c in checks] == [("metric-limit", passed), ("max-metric-drop", passed)]
            assert [c.value for c in checks] == pytest.approx([worst, drop])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": Limits(metric_limit=1)}, "a limit on a metric needs the metric"),
        ({"metric": "nothing"}, "a metric is named pkg.module:callable"),
        ({"metric": "numpy:pi"}, "not callable"),
        pytest.param({"metric": lambda *_: np.zeros(3)}, "or one for each of the", marks=pytest.mark.slow),
        pytest.param({"metric": lambda *_: "high"}, "returns a number", marks=pytest.mark.slow),
        pytest.param({"metric": lambda *_: float("nan")}, "gives NaN or infinity", marks=pytest.mark.slow),
        pytest.param({"metric": lambda x: x}, "raised TypeError", marks=pytest.mark.slow),
        ({"metric": margin, "metric_direction": "up"}, 'metric_direction takes "higher" or "lower"'),
    ],
)
def test_wrong_metrics(options: dict[str, Any], message: str, checkpoint: Path, samples: Path) -> None:
    with pytest.raises(lccl.UserError, match=re.escape(message)):
        lccl.compare(checkpoint, samples, latency=None, dense_twin=False, **options)


def largest(outputs: Any, labels: Any) -> Any:
    """The largest score of each sample, written over the outputs, which are its own."""
    outputs[:, 0] = outputs.max(1)
    return outputs[:, 0]


@pytest.mark.slow
def test_the_command_takes_a_metric(
    invoke: Invoke, exported: Path, dense_checkpoint: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    plain = ("--data", samples, "--no-dense-twin", "--runs", 0, "--json")
    options = (*plain, "--metric", f"{Path(__file__).stem}:largest", "--metric-direction", "lower", "--metric-limit")
    passed = invoke(COMPARE, exported, *options, 1000)
    found = json.loads(passed.out)["rows"][0]
    assert (passed.code, found["metric"]) == (0, pytest.approx(np.mean(found["metric_values"])))
    drop = ("--baseline", dense_checkpoint, "--max-metric-drop", 1000)
    above = invoke(COMPARE, exported, *options, found["metric"] - 0.1, *drop)  # lower is better
    checks = [(check["name"], check["passed"]) for check in json.loads(above.out)["checks"]]
    assert (above.code, checks) == (2, [("metric-limit", False), ("max-metric-drop", True)])
    failing = invoke(COMPARE, exported, *plain, "--metric", "numpy:size", "--metric-limit", 1)
    assert (failing.code, "the metric numpy:size raised" in failing.err) == (1, True)


def test_a_metric_that_writes_changes_nothing_else() -> None:
    outputs = np.eye(3, dtype=np.float32)[::-1].copy()
    before = outputs.copy()
    assert metric_of(largest).score([outputs], None).values == (1, 1, 1)
    np.testing.assert_array_equal(outputs, before)


def test_limits_without_values_do_not_pass() -> None:
    metric, row = metric_of(largest), Row("net", "lccl", "r", "cpu", None)
    for check in (
        lambda: _metric_limit([row], metric, 1.0),
        lambda: _metric_drop([row], replace(row, metric=1.0), metric, 1.0),
    ):
        with pytest.raises(lccl.UserError, match="needs an LCCL network that ran"):
            check()


# ---- top-k and throughput ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "wanted"), [(1, 0.5), (2, 0.75), (3, 0.75)])
def test_top_k(k: int, wanted: float) -> None:
    """Of equal scores the first class counts as larger, as in top-1, and a score that is not finite is wrong."""
    scores = np.array([[3, 2, 1, 0.0], [1, 2, 3, 0], [2, 2, 0, 1], [5, np.nan, 0, 1]], np.float32)
    assert top_k_of([scores], np.array([0, 2, 1, 0]), k) == wanted
    assert top_k_of([scores], np.array([0, 2, 0, 0]), k) == 0.75
    assert top_k_of([scores], None, k) is None
    assert top_k_of([scores], np.zeros((4, 2)), k) is None
    flat = np.zeros((3, 10), np.float32)
    assert top_k_of([flat], np.zeros(3, int), k) == 1.0


def test_top_k_of_all_classes() -> None:
    with pytest.raises(lccl.UserError, match="top-4 of 4 classes is every label"):
        top_k_of([np.zeros((2, 4))], np.zeros(2, int), 4)


def test_throughput_of_the_batches_that_a_runner_takes() -> None:
    class Runner:
        name, device, input_names = "r", "CPU", ("x",)

        def __init__(self, most: int) -> None:
            self.batches, self.seen = Batches(1, most), []

        def infer(self, feed: dict[str, Any]) -> dict[str, Any]:
            self.seen.append(len(feed["x"]))
            return {}

    runners: Any = [Runner(8), Runner(2)]
    found = throughputs(runners, as_data(np.zeros((8, 1), np.float32)), (2, 8), lambda *_: None)
    assert [sorted(rates) for rates in found] == [[2, 8], [2]]
    assert all(rate > 0 for rates in found for rate in rates.values())
    assert set(runners[1].seen) == {2}
    with pytest.raises(lccl.UserError, match="throughput at batch 9 needs as many samples, and the data has 8"):
        require_samples(as_data(np.zeros((8, 1), np.float32)), LatencyPlan(throughput=(2, 9)))
    require_samples(as_data(np.zeros((8, 1), np.float32)), None)


@pytest.mark.slow
def test_the_command_counts_and_measures_them(checkpoint: Path, samples: Path, invoke: Invoke) -> None:
    words = [checkpoint, "--data", samples, "--runs", "3", "--warmup", "1", "--no-dense-twin"]
    done = invoke(COMPARE, *words, "--top-k", "3", "--throughput", "2", "4", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["environment"]["top_k"] == 3
    for row in (r for r in said["rows"] if not r["skipped"]):
        assert row["accuracy"] <= row["top_k"] <= 1
        assert sorted(row["throughput"]) == ["2", "4"]
        assert row["latency"]["p5_ms"] <= row["latency"]["median_ms"] <= row["latency"]["p95_ms"]
    for wrong, message in ((["--top-k", "0"], "take numbers from 1"), (["--throughput", "2", "--runs", "0"], "leave one out")):
        done = invoke(COMPARE, *words, *wrong)
        assert (done.code, message in done.err) == (1, True)
