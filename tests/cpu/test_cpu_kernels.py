"""The CPU kernels, every instruction set that this machine runs, against the float64 reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from support.builds.cpu import Host
from support.cases.op_cases import Case
from support.cases.random_layers import large_layers, named_layers, random_layers
from support.hosts.cpu import Expected, Layer, Run, Work, check, check_all, expected, in_order, isas_of, run, running_isas

SWEEPS = 4
LAYERS_PER_SWEEP = 900
THREADS = (2, 4, -3, 2, 0, 4, -2)
"""How the second run of a random layer is done, in turn; the first one has one thread."""
DENSITIES = (-1.0, 0.01, 0.5, 1.0)
NAMED_THREADS = (1, 2, 3, 0, -4)


def runs_of(isas: list[int], number: int) -> list[Run]:
    """A layer on each instruction set, in two ways, which must not show."""
    second = THREADS[number % len(THREADS)]
    density = DENSITIES[number % len(DENSITIES)]
    return [one for isa in isas for one in (Run(isa), Run(isa, threads=second, density=density))]


def named_runs(isas: list[int]) -> list[Run]:
    return [Run(isa, threads=threads, density=0.5) for isa in isas for threads in NAMED_THREADS]


def wide_isas(host: Host) -> list[int]:
    """The AVX-512 instruction set alone: the others are as in the plain build."""
    found = [isa.id for isa in isas_of(host) if isa.name == "avx512" and isa.runs]
    assert found, "the AVX-512 isa is not emulated"
    return found


def with_runs(layers: list[Layer], isas: list[int]) -> Work:
    return [(in_order(layer, number // len(THREADS)), runs_of(isas, number)) for number, layer in enumerate(layers)]


ORDERS = 4


def in_each_order(layers: list[Layer], wants: list[Expected], runs: list[Run]) -> tuple[Work, list[Expected]]:
    return [(in_order(layer, order), runs) for order in range(ORDERS) for layer in layers], wants * ORDERS


def test_named_cases(cpu_host: Host, tmp_path: Path) -> None:
    check_all(cpu_host, *in_each_order(*named_layers(), named_runs(running_isas(cpu_host))), tmp_path)


@pytest.mark.parametrize("sweep", range(SWEEPS))
def test_random_layers(cpu_host: Host, tmp_path: Path, sweep: int) -> None:
    layers, wants = random_layers(sweep, LAYERS_PER_SWEEP)
    check_all(cpu_host, with_runs(layers, running_isas(cpu_host)), wants, tmp_path)


def test_larger_layers(cpu_host: Host, tmp_path: Path) -> None:
    """What is cut into bands of rows, packed several images to a task, or split among output channels."""
    layers, wants = large_layers()
    ways = ((1, -1.0), (2, 0.3), (3, 1.0), (-4, 0.02), (0, 0.5))
    runs = [Run(isa, threads=t, density=d) for isa in running_isas(cpu_host) for t, d in ways]
    check_all(cpu_host, *in_each_order(layers, wants, runs), tmp_path)


def test_named_cases_on_emulated_wide_vectors(wide_host: Host, tmp_path: Path) -> None:
    check_all(wide_host, *in_each_order(*named_layers(), named_runs(wide_isas(wide_host))), tmp_path)


@pytest.mark.parametrize("sweep", range(SWEEPS))
def test_random_layers_on_emulated_wide_vectors(wide_host: Host, tmp_path: Path, sweep: int) -> None:
    layers, wants = random_layers(sweep, LAYERS_PER_SWEEP)
    check_all(wide_host, with_runs(layers, wide_isas(wide_host)), wants, tmp_path)


def test_larger_layers_on_emulated_wide_vectors(wide_host: Host, tmp_path: Path) -> None:
    layers, wants = large_layers()
    runs = [Run(isa, threads=t, density=d) for isa in wide_isas(wide_host) for t, d in ((1, -1.0), (2, 0.5), (-4, 0.05))]
    check_all(wide_host, [(in_order(layer, number), runs) for number, layer in enumerate(layers)], wants, tmp_path)


def test_calls_at_the_same_time(cpu_host: Host, tmp_path: Path) -> None:
    """They share the inputs and the packed weights, and nothing else."""
    layers, wants = large_layers()
    runs = [Run(isa, threads=t, callers=3) for isa in running_isas(cpu_host) for t in (1, 2)]
    chosen = [number for number in range(len(layers)) if layers[number].name.startswith(("small", "deep-batch", "own", "grid"))]
    assert len(chosen) > 8
    check_all(cpu_host, [(in_order(layers[i], i), runs) for i in chosen], [wants[i] for i in chosen], tmp_path)


def test_integers_are_exact(cpu_host: Host, tmp_path: Path) -> None:
    """Sums of small integers have no rounding: any difference is a wrong index."""
    rng = np.random.default_rng(7)
    case = Case("integers", "exact sums", n=2, c=37, k=45, hw=(13, 17), gate="external")
    inputs = case.inputs()
    integers = {name: rng.integers(-3, 4, inputs[name].shape).astype(np.float32) for name in ("X", "W")}
    layer = Layer.of(case, **integers, B=np.round(inputs["B"]), gate=np.round(inputs["gate"]))
    want = expected(layer)
    runs = [Run(isa, threads=threads) for isa in running_isas(cpu_host) for threads in (1, 2)]
    (answers,) = run(cpu_host, [(layer, runs)], tmp_path)
    check(layer, want, runs, answers)
    for answer in answers:
        np.testing.assert_array_equal(answer.y, want.y.ravel())


def test_an_empty_batch(cpu_host: Host, tmp_path: Path) -> None:
    layer = Layer.of(Case("empty", "a batch of no images"))
    layer = dataclasses.replace(layer, inputs=dict(layer.inputs) | {"X": layer.inputs["X"][:0]})
    runs = [Run(isa, threads=threads) for isa in running_isas(cpu_host) for threads in (1, 2)]
    (answers,) = run(cpu_host, [(layer, runs)], tmp_path)
    want = Expected(np.empty((0, 6, 9, 11)), 0)
    check(layer, want, runs, answers)


def test_a_wrong_weight_is_seen(cpu_host: Host, tmp_path: Path) -> None:
    """The comparison can fail: in a value, in the count, in bits between two runs."""
    layers, wants = named_layers()
    runs = [Run(running_isas(cpu_host)[0])] * 2
    (answers,) = run(cpu_host, [(layers[0], runs)], tmp_path)
    check(layers[0], wants[0], runs, answers)
    weight = layers[0].inputs["W"].copy()
    weight[0, 0, 0, 0] += np.float32(0.01)
    other = expected(dataclasses.replace(layers[0], inputs=dict(layers[0].inputs) | {"W": weight}))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(layers[0], other, runs, answers)
    with pytest.raises(AssertionError, match="pixels active"):
        check(layers[0], dataclasses.replace(wants[0], active=wants[0].active - 1), runs, answers)
    flipped = answers[0].y.copy()
    flipped.view(np.uint32)[3] ^= 1
    with pytest.raises(AssertionError, match="other bits"):
        check(layers[0], wants[0], runs, [answers[0], dataclasses.replace(answers[1], y=flipped)])
