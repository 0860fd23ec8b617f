"""The CPU benchmarks' networks, inputs, sums, reports and targets; a small layer from end to end.

No time is asserted.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bench.cpu import command as cpu_command
from bench.cpu import contest as cpu_contest
from bench.cpu import layers as cpu_layers
from bench.cpu import measure as cpu_bench
from bench.cpu import models as cpu_models
from bench.cpu import picture as cpu_picture
from bench.cpu import report as cpu_report
from bench.cpu import targets as cpu_targets
from bench.cpu.common import NO_LIBRARY, Row, Times, marginal, mask, summary
from bench.cpu.contest import Candidate, OrtRunner, Plan, dense_bytes, race, relative_error
from bench.cpu.layer_nets import Layer, layer_input, layer_net
from bench.cpu.measure import Bench, Conditions, densities_seen, errors
from bench.cpu.networks import NETWORKS, nested_mask, pooled_levels
from lccl.errors import UserError
from lccl.graph.variants.canonical import canonical
from lccl.op.onnx_op import is_lccl_node, register_schema

LAYERS = (Layer(8, 9, 8), Layer(8, 9, 16, 2), Layer(8, 6, 16, 1, 1))


# ---- masks and inputs ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["blob", "random"])
@pytest.mark.parametrize("density", [0.1, 0.35, 1.0])
def test_masks_have_their_density(kind: str, density: float) -> None:
    active = mask(28, density, kind, np.random.default_rng(0))
    assert active.shape == (28, 28)
    assert active.sum() == round(density * active.size)


def test_blobs_are_blobs() -> None:
    def neighbours(kind: str) -> float:
        active = mask(64, 0.3, kind, np.random.default_rng(0))
        return float((active[:, 1:] & active[:, :-1]).sum() / active.sum())

    assert neighbours("random") < 0.4
    assert neighbours("blob") > 0.7


@pytest.mark.parametrize("gate", ["1x1", "kxk"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_a_layers_input_opens_its_gates_as_wanted(layer: Layer, gate: str) -> None:
    feeds = {key: layer_input(layer, 2, *key) for key in (("blob", 0.3), ("random", 0.6), ("random", 1.0))}
    model = layer_net(layer, 3, 2, gate, whole=True)[1]
    seen = densities_seen(model, feeds)
    assert seen == [round(d * layer.out_size**2) / layer.out_size**2 for _, d in feeds]
    (function,) = OrtRunner(model.SerializeToString(), 1).run_all(feeds["blob", 0.3]).values()
    active = feeds["blob", 0.3][:, 0, :: layer.stride, :: layer.stride] > 0
    np.testing.assert_array_equal((function != 0).any(1), active)
    dense = OrtRunner(dense_bytes(model), 1).run(feeds["blob", 1.0] if ("blob", 1.0) in feeds else feeds["random", 1.0])
    open_ = OrtRunner(model.SerializeToString(), 1).run(feeds["random", 1.0])
    assert relative_error(open_, dense) < 1e-5, "with all gates open the network is its dense twin"


def test_another_density_than_the_wanted_one_is_no_result() -> None:
    model = layer_net(LAYERS[0], 1, 1, "1x1")[1]
    with pytest.raises(RuntimeError, match=r"instead of 0\.5"):
        densities_seen(model, {("blob", 0.5): layer_input(LAYERS[0], 1, "blob", 0.8)})


@pytest.mark.parametrize("kind", ["blob", "random"])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_masks_of_halved_maps_have_their_density(kind: str, density: float) -> None:
    active = nested_mask((56, 28, 14, 7), density, kind, np.random.default_rng(1))
    codes = pooled_levels(64, 4, density, kind, np.random.default_rng(1))
    for level in range(4):
        part = active[:: 2**level, :: 2**level]
        assert part.sum() == round(density * part.size)
        side = 2**level
        largest = codes.reshape(64 // side, side, 64 // side, side).max((1, 3))
        assert (largest > level).sum() == round(density * largest.size)


# ---- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_the_models_are_what_the_exporter_would_write(layer: Layer) -> None:
    register_schema()
    net, model = layer_net(layer, 2, 1, "kxk")
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in canonical(model).graph.node] == [n.op_type for n in model.graph.node]
    assert {n.op_type for n in onnx.load_from_string(dense_bytes(model)).graph.node} == {"Conv", "Relu", "MaxPool"}
    work = net.works[0]
    assert work.dense == layer.macs(1)
    assert net.ideal(0.25) == pytest.approx(work.dense / (0.25 * work.dense + work.gate))


@pytest.mark.parametrize(
    ("name", "gated", "convolutions", "gmacs"),
    [("resnet18", 13, 20, 1.81), ("resnet20", 16, 21, 0.041), ("resnet56", 52, 57, 0.126)],
)
def test_networks_have_their_layers(name: str, gated: int, convolutions: int, gmacs: float) -> None:
    net, model = NETWORKS[name].build(1, "1x1")
    assert sum(w.gated for w in net.works) == sum(map(is_lccl_node, model.graph.node)) == gated
    assert len(net.works) == convolutions + 1
    assert sum(w.dense for w in net.works) / 1e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.slow
def test_a_small_networks_gates_and_outputs() -> None:
    network = NETWORKS["resnet20"]
    feeds = {key: network.feed(2, *key) for key in (("blob", 0.1), ("random", 0.5))}
    model = network.build(2, "kxk")[1]
    assert densities_seen(model, feeds) == pytest.approx([0.1, 0.5], abs=0.01)
    assert errors(Bench(NO_LIBRARY), model, 1, feeds) == [0.0, 0.0]
    assert np.isfinite(OrtRunner(model.SerializeToString(), 1).run(feeds["blob", 0.1])).all()


# ---- the commands --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_layer_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "out.json", tmp_path / "out.md"
    words = "--library none --layers 8@6 8-16@6s2 --densities .5 1 --masks random --gates 1x1 --batches 1 --rounds 1"
    arguments = words.split()
    assert cpu_layers.main([*arguments, "--json", str(out), "--markdown", str(table)]) == 0
    said = json.loads(out.read_text())
    assert [(r["subject"], r["kind"], r["threads"], r["density"]) for r in said["rows"]] == [
        (name, kind, threads, density)
        for threads in (1, 2)
        for name, kind in (("8@6", "chain"), ("8-16@6s2", "siblings"))
        for density in (0.5, 1.0)
    ]
    assert (said["complete"], said["failures"], said["targets"]) == (True, [], [])
    assert {row["ours"]["rounds"] for row in said["rows"]} == {1, 3}, "three passes of one round with two threads"
    assert {row["openvino"] is None for row in said["rows"]} == {not cpu_contest.openvino_there()}
    printed = capsys.readouterr().out
    assert table.read_text() == printed.removesuffix("\n")
    assert "**Without the library: what is called ours is the function, which skips nothing.**" in printed
    assert f"* command: bench/cpu/layers.py {' '.join(arguments)}" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "64x56"], "a layer is written like 64@56"),
        (["--layers", "64@56k4"], "an odd kernel up to 7"),
        (["--layers", "64@56k1", "--gates", "kxk"], "nothing is left to measure"),
        (["--library", "nowhere.so"], "no such file: nowhere.so"),
        (["--densities", "1.5"], "a density is above 0 and at most 1"),
        (["--rounds", "0"], "must be at least 1"),
        (["--json", "nowhere/out.json"], "does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cpu_layers.main(["--library", "none", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


def test_a_library_without_the_op_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.so").write_bytes(b"no library")
    with pytest.raises(UserError, match="does not get LCCLConv from"):
        cpu_contest.library_of(str(tmp_path / "empty.so"))


def test_what_is_measured_by_default() -> None:
    parse = cpu_layers.parser().parse_args
    everything = [words for words, _ in cpu_layers.settings(parse([]))]
    assert len(everything) == len(set(everything)) == 2 * 2 * (10 * 2 + 4)
    assert everything[0] == "64@56, batch 1, 1 thread, gate 1x1"
    quick = cpu_layers.settings(parse(["--quick"]))
    assert [words.split(",")[0] for words, _ in quick] == list(cpu_targets.RATIOS)
    networks = cpu_models.settings(cpu_models.parser().parse_args([]))
    assert len(networks) == 2 * 2 * len(NETWORKS) == 24
    (given, *_) = cpu_command.conditions(parse(["--quick"]), ("1x1",))
    assert given == Conditions(1, 1, "1x1", ("blob",), (0.1, 0.3, 0.5, 1.0))


def test_a_benchmark_keeps_what_it_has() -> None:
    kept: list[tuple[int, bool]] = []
    bench = Bench(NO_LIBRARY)

    def fails(_: Bench) -> list[Row]:
        raise RuntimeError("a runtime's error\nand more lines")

    settings: Any = [("one", lambda _: [row(0.1, 5.0)]), ("two", fails), ("three", lambda _: [row(0.5, 2.0, error=0.1)])]
    bench.run(settings, lambda *_: None, lambda: kept.append((len(bench.rows), bench.complete)))
    assert kept == [(1, False), (1, False), (1, True)]
    assert bench.failures == ["two: error: a runtime's error", "three, blob 0.5: wrong: off by 0.1 of the largest output"]
    late = Bench(NO_LIBRARY, deadline=time.monotonic() - 1)
    late.run(settings, lambda *_: None)
    assert (late.rows, late.complete) == ([], False)


# ---- sums ----------------------------------------------------------------------------------------


class Sleeper:
    """A network that counts its runs."""

    alive = 0
    most_alive = 0

    def __init__(self) -> None:
        Sleeper.alive += 1
        Sleeper.most_alive = max(Sleeper.most_alive, Sleeper.alive)

    def __del__(self) -> None:
        Sleeper.alive -= 1

    def run(self, x: cpu_contest.Array) -> cpu_contest.Array:
        return x


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "alive", "rounds"), [(1, 2, 4), (2, 1, 6)])
def test_with_two_threads_one_network_is_loaded_at_a_time(threads: int, alive: int, rounds: int) -> None:
    Sleeper.alive = Sleeper.most_alive = 0
    candidates = [Candidate(name, Sleeper, {"a": np.zeros(1), "b": np.zeros(1)}) for name in ("one", "two")]
    found = race(candidates, threads, Plan(rounds=4, most=4))
    assert Sleeper.most_alive == alive
    assert {key: len(times) for key, times in found.samples.items()} == {(n, f): rounds for n in ("one", "two") for f in "ab"}


def test_rounds_go_by_time() -> None:
    plan = Plan()
    assert [plan.rounds_of(us) for us in (100, 2e4, 1e6, 10e6, 100e6)] == [200, 50, 30, 12, 5]
    assert Plan(rounds=1, most=1).rounds_of(100) == 1
    assert plan.share(0.25).seconds == 30


def test_times() -> None:
    assert summary([float(v) for v in range(20, 0, -1)]) == Times(10.5, 3, 18, 20)
    assert marginal([10.0, 12.0, 11.0], [31.0, 41.0, 21.0], 4) == Times(5.0, 2.5, 7.5, 3)
    assert cpu_bench.layers_between(Layer(64, 56, 64), 8) == 3
    assert cpu_bench.layers_between(Layer(16, 32, 16), 1) == 6


def test_an_error_that_is_no_number_is_infinite() -> None:
    one = np.ones(3, np.float32)
    assert relative_error(one * 2, one * 4) == 0.5
    assert relative_error(np.array([1, np.nan, 1], np.float32), one) == float("inf")


# ---- reports and targets -------------------------------------------------------------------------


def row(density: float, ratio: float, **others: Any) -> Row:
    """A row whose dense time over ours is ``ratio``."""
    times = {
        name: Times(us, 0.9 * us, 1.2 * us, 30) for name, us in (("ours", 600 / ratio), ("dense", 600.0), ("function", 660.0))
    }
    setting: dict[str, Any] = {"subject": "64@56", "kind": "chain", "batch": 1, "threads": 1, "mask": "blob", "gate": "1x1"}
    measured: dict[str, Any] = {"openvino": None, "ideal": 0.95 / density, "error": 1e-6}
    return Row(**setting | {"density": density, "seen": density} | times | measured | others)


HELD = {0.1: 6.6, 0.3: 2.7, 0.5: 1.9, 1.0: 0.95}


def results_of(rows: list[Row]) -> dict[str, str]:
    return {o.target: o.result for o in cpu_targets.outcomes(rows)}


def test_targets_are_held_or_not() -> None:
    rows = [row(density, ratio) for density, ratio in HELD.items()]
    names = [f"64@56, density {density:g}" for density in HELD]
    assert [results_of(rows)[name] for name in names] == ["passed"] * 4
    assert results_of(rows)["128@28, density 0.1"] == "not measured"
    found = {o.target: o for o in cpu_targets.outcomes([*rows, row(0.1, 5.2, mask="random")])}
    short = found["64@56, density 0.1"]
    assert (short.result, short.measured, short.where, bool(short)) == ("failed", pytest.approx(5.2), "random", False)
    assert short.short_by == pytest.approx(0.2)
    assert found["64@56, density 0.3"].short_by is None


@pytest.mark.parametrize(
    ("others", "target", "least"),
    [
        ({"gate": "kxk"}, "64@56, k x k gate, density 0.1", 5.98),
        ({"threads": 2}, "64@56, two threads, density 0.1", 5.85),
        ({"subject": "128-256@28s2"}, "128-256@28s2, density 0.1", 6.0),
        ({"subject": "256-64@56k1"}, "256-64@56k1, density 0.1", 5.2),
    ],
)
def test_other_shapes_gates_and_threads_have_targets_of_their_own(others: dict[str, Any], target: str, least: float) -> None:
    for ratio, result in ((least + 0.01, "passed"), (least - 0.01, "failed")):
        found = results_of([row(0.1, ratio, **others)])
        assert found[target] == result
        assert [name for name, said in found.items() if said != "not measured"] == [target]


def test_a_busy_machine_gets_no_verdict() -> None:
    """However good the ratio: it is of something else."""
    rows = [row(0.1, 15.0, cpu_share=0.4), row(0.3, 1.0, cpu_share=0.5), row(0.5, 1.9, cpu_share=0.96)]
    results = cpu_targets.outcomes(rows)
    found = {o.target: o for o in results}
    assert [found[f"64@56, density {d:g}"].result for d in (0.1, 0.3, 0.5)] == [cpu_targets.NOT_JUDGED] * 2 + ["passed"]
    assert not found["64@56, density 0.1"]
    assert cpu_targets.markdown(results)[-1].startswith("1 passed, 0 failed, 2 not judged, ")


def test_only_batch_1_counts() -> None:
    assert set(results_of([row(0.1, 1.0, batch=8), row(0.1, 1.0, gate="kxk", threads=2)]).values()) == {"not measured"}


def test_networks_are_held_to_a_part_of_the_ideal() -> None:
    rows = [row(d, 0.9 * 2, subject="resnet18", kind="network", ideal=2.0) for d in (0.3, 0.5)]
    found = results_of(rows)
    assert found["resnet18, part of the ideal, density 0.3"] == "passed"
    assert found["resnet18, part of the ideal, density 0.5"] == "failed"
    assert not any(name.startswith("64@56") for name in found), "layers are another benchmark's"


FACTS = {"cpu": "a CPU", "onnxruntime": "1.0"}


def test_the_report() -> None:
    rows = [row(0.1, 6.0), row(0.5, 2.0, openvino=Times(900.0, 800.0, 950.0, 30), seen=0.51), row(1.0, 0.8)]
    bench = Bench("a library", rows=rows, failures=["a setting: wrong"])
    text = cpu_report.markdown(FACTS, bench, "layer")
    assert "Not complete" in text
    assert "Without the library" not in text
    assert (
        "| 64@56 | 1 | 1 | 1x1 | blob | 0.1 | 100 (90 to 120) | 600 (540 to 720) | 6.00 | 9.50 | 63 % | 0.91 | not installed | - "
        "| 1.0e-06 | 30 |"
    ) in text
    assert (
        "| 0.5 (0.510) | 300 (270 to 360) | 600 (540 to 720) | 2.00 | 1.90 | 105 % | 0.91 | 900 (800 to 950) | 3.00 |" in text
    )
    assert "| 64@56, density 0.1 | 6.5 | 6.00 | blob | failed, 7.7 % short |" in text
    assert "| 64@56, density 0.5 | 1.75 | 2.00 | blob | passed |" in text
    assert "* a setting: wrong" in text
    said = cpu_report.report(FACTS, bench)
    (even,) = said["break_even"]
    assert (even["break_even"], even["beyond"]) == (pytest.approx(0.51 + 0.49 * 1 / 1.2), False)
    assert f"| 64@56 | 1 | 1 | 1x1 | blob | {even['break_even']:.2f} |" in text
    assert (said["rows"][0]["ratio"], said["rows"][1]["openvino_ratio"]) == (pytest.approx(6.0), pytest.approx(3.0))
    early = cpu_report.markdown(FACTS, Bench("a library", rows=rows[:2]), "layer")
    assert "| 64@56 | 1 | 1 | 1x1 | blob | at least 0.51 |" in early
    assert json.loads(json.dumps(said))["targets"][0]["short_by"] == pytest.approx(0.5 / 6.5)


def test_a_busy_machine_is_told() -> None:
    calm, busy = row(0.1, 6.0, cpu_share=0.99), row(0.1, 6.0, subject="another", cpu_share=0.6)
    assert cpu_report.disturbances([calm, row(0.1, 6.0, threads=2)]) == []
    assert cpu_report.disturbances([calm, busy])[-1] == "* another, batch 1, gate 1x1: 60 %"
    assert "measure these again" in cpu_report.markdown(FACTS, Bench("a library", rows=[busy]), "layer")

    class Waits(Sleeper):
        def run(self, x: cpu_contest.Array) -> cpu_contest.Array:
            time.sleep(0.002)
            return x

    found = race([Candidate("one", Waits, {"": np.zeros(1)})], 1, Plan(rounds=3, most=3))
    assert found.cpu_share is not None
    assert found.cpu_share < 0.9, "most of the time is somebody else's"


def test_no_targets_without_the_library() -> None:
    bench = Bench(NO_LIBRARY, rows=[row(0.1, 7.0)], complete=True)
    assert cpu_report.report(FACTS, bench)["targets"] == []
    assert "held to" not in cpu_report.markdown(FACTS, bench, "layer")


@pytest.mark.slow
def test_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    rows = [
        replace(row(d, r), subject=name, mask=m)
        for name in ("64@56", "another")
        for m in ("blob", "random")
        for d, r in HELD.items()
    ]
    if cpu_picture.find_spec("matplotlib") is None:
        with pytest.raises(UserError, match="pip install matplotlib"):
            cpu_picture.draw(rows, path, "a CPU")
        return
    cpu_picture.draw(rows, path, "a CPU")
    assert path.read_bytes().startswith(b"\x89PNG")
