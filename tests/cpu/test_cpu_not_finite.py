"""NaN and infinity in the CPU kernels, as the contract wants them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from support.builds.cpu import Host
from support.cases.op_cases import Array, Case
from support.hosts.cpu import Layer, Run, check, expected, in_order, run, running_isas

VALUES = (np.nan, np.inf, -np.inf)


def verdict(host: Host, layers: list[Layer], folder: Path) -> list[list[Array]]:
    """y of each layer and run, after it was held to the reference, whose values beyond float32 are infinite."""
    runs = [Run(isa, threads=threads) for isa in running_isas(host) for threads in (1, 2)]
    results = []
    for layer, answers in zip(layers, run(host, [(layer, runs) for layer in layers], folder), strict=True):
        want = expected(layer)
        with np.errstate(over="ignore"):
            rounded = want.y.astype(np.float32).astype(np.float64)
        check(layer, dataclasses.replace(want, y=rounded), runs, answers)
        results.append([answer.y.reshape(want.y.shape) for answer in answers])
    return results


def changed(layer: Layer, **inputs: Array) -> Layer:
    return dataclasses.replace(layer, inputs=dict(layer.inputs) | inputs)


def half_open(name: str, value: float, **changes: object) -> Layer:
    """A layer with the first six columns closed by an external gate, and the value in the first five columns of x."""
    case = Case(name, "not finite", n=2, c=11, k=19, hw=(9, 12), gate="external", fill="all-on", **changes)  # type: ignore[arg-type]
    layer = Layer.of(case)
    x, gate = layer.inputs["X"].copy(), layer.inputs["gate"].copy()
    gate[..., : 6 // case.grid] = 0
    x[..., :5] = value
    return changed(layer, X=x, gate=gate)


@pytest.mark.parametrize("value", VALUES)
def test_what_only_closed_pixels_see_does_not_reach_y(cpu_host: Host, tmp_path: Path, value: float) -> None:
    layers = [
        half_open("closed", value),
        half_open("closed-residual", value, residual=True, post=True, post_alpha=0.0),
        half_open("closed-relu", value, activation_alpha=0.0),
    ]
    for ys in verdict(cpu_host, [in_order(layer, order) for layer in layers for order in (0, 3)], tmp_path):
        assert all(np.isfinite(y).all() for y in ys)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.1])
def test_what_an_open_pixel_sees_reaches_y(cpu_host: Host, tmp_path: Path, value: float, alpha: float) -> None:
    """In all output channels of the pixels around it, and nowhere else; in the reference's way after the activation.

    The gate is on a grid so that the reference's neutral gate, which closes at NaN, does not look at the value.
    """
    layer = half_open("open", 0.0, activation_alpha=alpha, grid=2)
    x = layer.inputs["X"].copy()
    x[1, 4, 5, 9] = value
    around = np.zeros((2, 9, 12), bool)
    around[1, 4:7, 8:11] = True
    for y in verdict(cpu_host, [changed(layer, X=x)], tmp_path)[0]:
        np.testing.assert_array_equal(np.moveaxis(np.isfinite(y), 1, -1), np.broadcast_to(~around[..., None], (2, 9, 12, 19)))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.1])
def test_a_gate_that_is_nan_is_closed(cpu_host: Host, tmp_path: Path, alpha: float) -> None:
    """Whether x makes it so or an external map. The open pixels around see the NaN of x."""
    case = Case("own", "NaN in x", n=2, c=9, k=17, hw=(8, 11), fill="all-on", residual=True, activation_alpha=alpha)
    own, external = Layer.of(case), half_open("external", 0.0, activation_alpha=alpha)
    x, gate = own.inputs["X"].copy(), external.inputs["gate"].copy()
    x[1, :, 2, 3] = np.nan
    gate[0, 0, 4, 7:11] = np.nan
    first, second = verdict(cpu_host, [changed(own, X=x), changed(external, gate=gate)], tmp_path)
    for y in first:
        assert np.isfinite(y[1, :, 2, 3]).all()
        assert np.isnan(y[1, :, 2, 2]).all()
    for y in second:
        assert (y[0, :, 4, 7:11] == 0).all()
        assert np.isfinite(y).all()


@pytest.mark.parametrize("threshold", [0.0, 0.4])
@pytest.mark.parametrize("value", VALUES)
def test_a_gate_of_its_own_over_infinity(cpu_host: Host, tmp_path: Path, value: float, threshold: float) -> None:
    """A bounded gate opens at +infinity and closes at -infinity and NaN."""
    layers = []
    for name, gate, hw in (("own-1x1", "1x1", (8, 11)), ("own-kxk", "kxk", (9, 10))):
        case = Case(name, "not finite", n=1, c=6, k=9, hw=hw, gate=gate, gate_max=1.0, gate_threshold=threshold, fill="all-on")
        layer = Layer.of(case)
        x = layer.inputs["X"].copy()
        x[0, 2, 3, 4] = value
        layers.append(changed(layer, X=x))
    for layer, ys in zip(layers, verdict(cpu_host, layers, tmp_path), strict=True):
        want = expected(layer)
        for y in ys:
            np.testing.assert_array_equal(np.isfinite(y), np.isfinite(want.y))


def test_a_residual_that_is_not_finite_stays_where_it_is(cpu_host: Host, tmp_path: Path) -> None:
    layer = half_open("residual", 0.0, residual=True)
    residual = layer.inputs["residual"].copy()
    residual[0, 5, 2, 1] = np.nan  # a closed pixel
    residual[1, 7, 3, 9] = np.inf  # an open one
    for y in verdict(cpu_host, [changed(layer, residual=residual)], tmp_path)[0]:
        assert np.argwhere(~np.isfinite(y)).tolist() == [[0, 5, 2, 1], [1, 7, 3, 9]]
