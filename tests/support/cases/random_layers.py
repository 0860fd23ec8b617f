"""Random layers for the CPU kernels, the same in every run."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np

from lccl.errors import ContractError
from lccl.op.contract import BINARY_SLOPE, FLT_MAX, conv_hw, grid_hw
from support.cases.op_cases import CASES, Array, Case
from support.hosts.cpu import Expected, Layer, expected, is_decided

MOST_MACS = 6_000_000
"""Of a small layer: what float64 sums in NumPy can be waited for."""
CHANNELS = (1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 70)


def _case(rng: np.random.Generator, name: str) -> Case:
    """Any form of the op on a small map; some draws do not fit together, and using them raises."""
    pick = lambda *values: values[rng.integers(len(values))]  # noqa: E731
    sides = lambda low, high: (int(rng.integers(low, high)), int(rng.integers(low, high)))  # noqa: E731
    kernel = sides(1, 8) if rng.random() < 0.4 else pick((3, 3), (3, 3), (1, 1), (5, 5))
    grid = int(pick(1, 1, 1, 1, 2, 3, 4, 7, 16))
    case = Case(
        name=name,
        why="random",
        n=int(pick(1, 1, 2, 3, 5)),
        c=int(pick(*CHANNELS)),
        k=int(pick(*CHANNELS)),
        hw=sides(1, 24) if rng.random() < 0.9 else (int(rng.integers(1, 4)), int(rng.integers(40, 90))),
        kernel=kernel,
        strides=sides(1, 4) if rng.random() < 0.4 else (1, 1),
        pads=tuple(int(v) for v in rng.integers(0, 5, 4)) if rng.random() < 0.4 else (kernel[0] // 2, kernel[1] // 2) * 2,
        dilations=sides(1, 4) if rng.random() < 0.3 else (1, 1),
        gate=pick("1x1", "kxk", "external", "both", "none") if grid == 1 else pick("grid", "external", "both"),
        grid=grid,
        activation_alpha=pick(1.0, 0.0, 0.1),
        gate_threshold=pick(0.0, 0.0, 0.0, 0.3),
        post=rng.random() < 0.4,
        residual=rng.random() < 0.4,
        post_alpha=pick(1.0, 0.0, 0.2),
        fill=pick("random", "random", "random", "random", "all-off", "all-on", "one-pixel"),
    )
    slope, most = pick((1.0, FLT_MAX), (1.0, FLT_MAX), (2.5, FLT_MAX), (1.0, 1.0), (0.5, 0.75), (BINARY_SLOPE, 1.0))
    return dataclasses.replace(case, gate_slope=slope, gate_max=most)


def _fitted(case: Case) -> Case:
    """The case with a fill that its gate can have, and few channels for a quick reference."""
    if case.gate == "none":
        case = dataclasses.replace(case, gate="external", fill="random")
    if case.fill == "one-pixel" and case.gate not in ("external", "both"):
        case = dataclasses.replace(case, fill="random")
    ho, wo = conv_hw(case.hw, case.kernel, case.strides, case.pads, case.dilations)
    if case.kernel[0] * case.kernel[1] * case.n * ho * wo * case.c * case.k > MOST_MACS:
        raise ContractError("too much work")
    return case


def _changes(rng: np.random.Generator, case: Case, *, gated: bool) -> dict[str, Array]:
    """Inputs that a named case has not: no gate at all, and affines of one element."""
    changes: dict[str, Array] = {}
    if not gated:
        changes["gate"] = np.ones((1, 1, 1, 1), np.float32)
        changes["gate_B"] = np.ones(1, np.float32)
    if not case.post and rng.random() < 0.3:
        changes["post_scale"] = rng.random(1).astype(np.float32) + np.float32(0.5)
    if not case.post and rng.random() < 0.3:
        changes["post_bias"] = rng.standard_normal(1).astype(np.float32)
    return changes


def random_layer(rng: np.random.Generator, name: str) -> Layer:
    """A small layer whose sizes fit together and whose gates are decided."""
    while True:
        drawn = _case(rng, name)
        try:
            case = _fitted(drawn)
            layer = Layer.of(case, **_changes(rng, case, gated=drawn.gate != "none"))
            decided = is_decided(layer.inputs, layer.attributes)
        except (ContractError, ValueError, IndexError):
            continue
        if decided:
            return layer


@cache
def random_layers(seed: int, count: int) -> tuple[list[Layer], list[Expected]]:
    """Small layers and what the reference says of them."""
    rng = np.random.default_rng(seed)
    layers = [random_layer(rng, f"random-{seed}-{number}") for number in range(count)]
    return layers, [expected(layer) for layer in layers]


@cache
def named_layers() -> tuple[list[Layer], list[Expected]]:
    """The named cases of the op, and what the reference says of them."""
    layers = [Layer.of(case) for case in CASES]
    return layers, [expected(layer) for layer in layers]


# ---- larger maps ---------------------------------------------------------------------------------


def blobs(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """A gate map, [N, 1, H, W], of which that share is open, in a few areas."""
    n, _, h, w = shape
    rows, columns = np.mgrid[:h, :w]
    height = np.zeros((n, h, w))
    for image in height:
        for _ in range(5):
            y, x, size = rng.random() * h, rng.random() * w, 1 + rng.random() * max(h, w) / 4
            image += np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    return _open(rng, height.reshape(shape), density)


def scattered(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Array:
    """A gate map, [N, 1, H, W], of which that share is open."""
    return _open(rng, rng.random(shape), density)


def _open(rng: np.random.Generator, height: Array, density: float) -> Array:
    count = round(density * height.size)
    order = np.argsort(-height, axis=None, kind="stable")
    gate = np.zeros(height.size, np.float32)
    gate[order[:count]] = rng.random(count).astype(np.float32) + np.float32(0.25)
    return gate.reshape(height.shape)


@dataclasses.dataclass(frozen=True)
class Large:
    """A layer of a real network's size, with a reason."""

    why: str
    case: Case
    densities: tuple[float, ...]


def _large(name: str, why: str, densities: tuple[float, ...], **sizes: Any) -> Large:
    return Large(why, Case(name, why, gate="external", activation_alpha=0.0, **sizes), densities)


LARGE = (
    _large("bands", "several bands of rows in an image", (0.02, 0.3, 1.0), c=64, k=64, hw=(40, 56)),
    _large("bands-batch", "bands of several images", (0.1, 0.6), n=3, c=32, k=40, hw=(56, 33), residual=True),
    _large("tall", "more rows than columns, one channel tile cut", (0.05, 0.9), c=16, k=20, hw=(130, 9), post=True),
    _large("flat", "one row of pixels", (0.3, 1.0), c=24, k=16, hw=(2, 500)),
    _large("wide-rows", "rows longer than a band of others", (0.2, 1.0), c=8, k=12, hw=(12, 300)),
    _large("small-images", "several small images in one task", (0.1, 0.5, 1.0), n=8, c=64, k=64, hw=(7, 7)),
    _large("small-images-odd", "more small images than a task takes", (0.4, 0.95), n=19, c=24, k=33, hw=(5, 6)),
    _large("deep", "output channels shared among threads", (0.04, 0.5, 1.0), c=512, k=512, hw=(7, 7)),
    _large("deep-batch", "deep and small, two images", (0.3,), n=2, c=256, k=320, hw=(7, 7), residual=True),
    _large("deep-1x1", "a bottleneck's pointwise convolution", (0.2, 1.0), c=512, k=256, hw=(14, 14), kernel=(1, 1), pads=(0,) * 4),
    _large("strided", "a stage's first convolution", (0.3, 1.0), c=64, k=128, hw=(56, 56), strides=(2, 2)),
    _large("stem", "a first convolution", (0.2, 1.0), c=3, k=32, hw=(96, 80), kernel=(7, 7), pads=(3,) * 4, strides=(2, 2)),
    _large("dilated", "rows that are far apart", (0.3, 1.0), c=32, k=32, hw=(33, 41), dilations=(3, 2), pads=(3, 2, 3, 2)),
    _large("grid", "blocks that share a gate", (0.1, 0.7), c=32, k=48, hw=(45, 50), grid=4),
)  # fmt: skip


def _large_layer(large: Large, number: int, density: float) -> Layer:
    case = dataclasses.replace(large.case, name=f"{large.case.name}-{density}")
    rng = np.random.default_rng(number)
    ho, wo = conv_hw(case.hw, case.kernel, case.strides, case.pads, case.dilations)
    shape = (case.n, 1, *grid_hw((ho, wo), case.grid))
    gate = (blobs if number % 2 else scattered)(rng, shape, density)
    return Layer.of(case, gate=gate)


def _own_gates() -> list[Layer]:
    """Larger layers with gates of their own; the first seed of each whose gates are decided."""
    cases = (
        Case("own-1x1", "1x1 gate", c=64, k=32, hw=(40, 56), residual=True, post_alpha=0.0),
        Case("own-kxk", "k x k gate", n=2, c=48, k=32, hw=(28, 28), gate="kxk", activation_alpha=0.0),
        Case("own-grid", "gate on a grid", c=32, k=32, hw=(42, 37), gate="grid", grid=4, activation_alpha=0.0),
        Case("own-strided", "1x1 gate on strided pixels", c=40, k=24, hw=(57, 40), strides=(2, 2), activation_alpha=0.0),
        Case("own-small", "small images", n=8, c=64, k=64, hw=(7, 7), gate="kxk", post=True),
    )
    tries = (Layer.of(dataclasses.replace(case, name=f"{case.name}-{seed}")) for case in cases for seed in range(9))
    decided: dict[str, Layer] = {}
    for layer in tries:
        kind = layer.name.rpartition("-")[0]
        if kind not in decided and is_decided(layer.inputs, layer.attributes):
            decided[kind] = layer
    assert len(decided) == len(cases)
    return list(decided.values())


@cache
def large_layers() -> tuple[list[Layer], list[Expected]]:
    """Layers that are cut into several tasks, and what the reference says of them."""
    layers = [
        _large_layer(large, number + 7 * turn, density)
        for number, large in enumerate(LARGE)
        for turn, density in enumerate(large.densities)
    ]
    layers += _own_gates()
    return layers, [expected(layer) for layer in layers]
