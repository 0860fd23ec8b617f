"""Every V3 method of the plugin in TensorRT's order, by a host program under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lccl.backends.torch.cuda.interface import Device, Dtype
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import conv_params
from lccl.op.contract import INPUT_NAMES
from lccl.op.reference import lccl_gate
from support.cases.op_cases import CASES, Case
from support.hosts.emulator import STORAGE, Array
from support.hosts.plugin import Answer, Layer, assert_close, by_tactic, fields_of, run

EMULATED = Device(90, 132, 232448, 233472)
"""What the emulated machine says it is."""
REFUSED_TACTICS = [f"tactic {id_} is of another version of the plugin: build the engine again" for id_ in (0x20201, 0x7FFFFFFF)]
"""What is said of what the host asks for last of all: a tactic that is retired, and one that never was."""


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def largest(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes at the upper end of the host's profile: maps that follow x have twice the batch."""
    n = shapes["X"][0]
    maps = {"X"} | {name for name in ("gate", "residual") if shapes[name] != (1, 1, 1, 1)}
    return {name: (2 * n, *shape[1:]) if name in maps else shape for name, shape in shapes.items()}


def check(layer: Layer, answer: Answer, library: Library) -> None:
    """What has to hold of any layer that TensorRT can build."""
    assert answer.problem == "", layer.name
    shapes = {name: layer.inputs[name].shape for name in INPUT_NAMES}
    params = conv_params(largest(shapes), layer.attributes, layer.dtype)
    runs = [c.id for c in library.configs() if library.supported(params, EMULATED, c.id)]
    assert answer.facts["tactics"] == runs
    assert answer.facts["workspace"] == max(library.workspace(params, EMULATED, c) for c in runs)
    contexts = by_tactic(answer, "context")
    assert set(contexts) == {0, *runs}
    for y in contexts.values():
        assert_close(layer, layer.output(y))
    for who in ("second context", "runtime"):
        others = by_tactic(answer, who)
        assert set(others) == {runs[0], runs[-1]}
        assert all(contexts[tactic] == y for tactic, y in others.items()), f"{who} computes something else"
    exact = conv_params(shapes, layer.attributes, layer.dtype)
    assert contexts[0] == contexts[library.choose(exact, EMULATED)]


@pytest.mark.parametrize("dtype", list(Dtype), ids=lambda d: d.name.lower())
def test_every_form_of_the_op(trt_host: Path, emulator_library: Library, tmp_path: Path, dtype: Dtype) -> None:
    layers = [Layer.of(case, dtype) for case in CASES]
    answers, messages = run(trt_host, layers, tmp_path)
    assert messages.splitlines() == [f"LCCLConv {layer.name}: {words}" for layer in layers for words in REFUSED_TACTICS]
    for layer, answer in zip(layers, answers, strict=True):
        check(layer, answer, emulator_library)


def test_gates_are_simulated_while_tactics_are_timed_and_real_afterwards(trt_host: Path, tmp_path: Path) -> None:
    """The builder's inputs mean nothing, so a gate of all zeros must cost what the density says; a context must see zeros."""
    case = dataclasses.replace(named("all-off"), hw=(64, 64), residual=False, post=False)
    layer = Layer.of(case, Dtype.FLOAT16)
    open_share = []
    for density in (0.1, 0.6):
        attributes = dataclasses.replace(layer.attributes, density=density)
        (answer,), _ = run(
            trt_host, [dataclasses.replace(layer, attributes=attributes, fields=fields_of(attributes))], tmp_path
        )
        assert answer.problem == ""
        for y in by_tactic(answer, "timed").values():
            open_share.append((density, (layer.output(y) != 0).any(axis=1).mean()))
        for who in ("context", "second context", "runtime"):
            assert all(not layer.output(y).astype(np.float32).any() for y in by_tactic(answer, who).values()), who
    assert all(abs(share - density) < 0.12 for density, share in open_share), open_share
    assert not lccl_gate(dict(layer.inputs), layer.attributes).any()


def test_contexts_of_a_building_process_are_timed_by_density_only_if_the_engine_is_serialised(
    trt_host: Path, tmp_path: Path
) -> None:
    """TensorRT may time plugins that it has attached to a context; a context of an engine in memory looks the same."""
    case = dataclasses.replace(named("all-off"), hw=(64, 64), residual=False, post=False)
    layer = Layer.of(case, Dtype.FLOAT16)
    promised = dict(layer.fields) | {"time_by_density": ("time_by_density", 5, 1, b"\x01\0\0\0")}
    answers, _ = run(trt_host, [layer, dataclasses.replace(layer, fields=promised)], tmp_path)
    for answer, simulates in zip(answers, (False, True), strict=True):
        for who, opens in (("timed", True), ("context", simulates), ("second context", simulates), ("runtime", False)):
            for y in by_tactic(answer, who).values():
                assert bool(layer.output(y).astype(np.float32).any()) == opens, (who, simulates)


def test_a_format_for_each_type(trt_host: Path, tmp_path: Path) -> None:
    """The builder stops asking at the limit, so it must not be below what is taken."""
    (answer,), _ = run(trt_host, [one("plain")], tmp_path)
    assert answer.facts["format_limit"] == len(Dtype)


def test_what_identifies_a_layer_in_the_timing_cache(trt_host: Path, tmp_path: Path) -> None:
    layer = Layer.of(named("plain"), Dtype.FLOAT16)
    others = [
        dataclasses.replace(layer.attributes, density=0.25),
        dataclasses.replace(layer.attributes, gate_threshold=0.5),
    ]
    layers = [layer, layer, *(dataclasses.replace(layer, attributes=a, fields=fields_of(a)) for a in others)]
    answers, _ = run(trt_host, layers, tmp_path)
    ids = [answer.facts["timing_cache_id"] for answer in answers]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all("kernels=" in i and "strides=1,1" in i for i in ids)
    assert "density=0.25" in answers[2].facts["metadata"]


def test_the_residual_is_aliased_only_where_the_builder_says_so(trt_host: Path, tmp_path: Path) -> None:
    layer = Layer.of(named("residual"), Dtype.FLOAT16)
    aliased = dict(layer.fields) | {"alias_residual": ("alias_residual", 5, 1, b"\x01\0\0\0")}
    answers, _ = run(trt_host, [layer, dataclasses.replace(layer, fields=aliased)], tmp_path)
    assert [answer.facts["aliased_input"] for answer in answers] == [-1, INPUT_NAMES.index("residual")]


def one(name: str, **changes: Array) -> Layer:
    return Layer.of(named(name), Dtype.FLOAT16, **changes)


HALF = STORAGE[Dtype.FLOAT16]
TOO_LARGE = Case("too-large", "a kernel above 7 x 7", kernel=(8, 8), pads=(3, 3, 4, 4))
REFUSED = {
    "channels": (one("plain", W=np.zeros((6, 3, 3, 16), HALF)), "W is [K, R, S, C] with C = 16, but X has 8 channels"),
    "rank": (one("plain", gate=np.ones(1, HALF)), "gate must have 4 dimensions, not [1]"),
    "bias": (one("plain", B=np.zeros(5, np.float32)), "B must be [6], not [5]"),
    "gate-weights": (one("plain", gate_W=np.zeros((1, 1, 1, 4), HALF)), "gate_W must be [1, Rg, Sg, 8], not [1, 1, 1, 4]"),
    "gate-kernel": (one("plain", gate_W=np.zeros((1, 2, 2, 8), HALF)), "the gate's convolution gives 8x10"),
    "gate-map": (
        one("external", gate=np.ones((2, 1, 3, 3), HALF)),
        "gate must be [1, 1, 9, 11] or [1, 1, 1, 1], not [1, 1, 3, 3]",
    ),
    "post": (one("released", post_bias=np.zeros(4, np.float32)), "post_bias must be [6] or [1], not [4]"),
    "residual": (
        one("residual", residual=np.zeros((2, 6, 9, 10), HALF)),
        "residual must be [1, 6, 9, 11] or [1, 1, 1, 1], not [1, 6, 9, 10]",
    ),
    "kernel": (Layer.of(TOO_LARGE, Dtype.FLOAT16), "kernels are 1x1 to 7x7, not 8x8"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_shapes_that_are_refused(trt_host: Path, tmp_path: Path, why: str) -> None:
    layer, words = REFUSED[why]
    (answer,), messages = run(trt_host, [layer], tmp_path)
    assert answer.problem != ""
    assert words in messages
    assert all(line.startswith(f"LCCLConv {layer.name}: ") for line in messages.splitlines())


def without(name: str) -> Layer:
    layer = one("plain")
    return dataclasses.replace(layer, fields={n: f for n, f in layer.fields.items() if n != name})


def having(name: str, kind: int, length: int, data: bytes) -> Layer:
    layer = one("plain")
    return dataclasses.replace(layer, fields=dict(layer.fields) | {name: (name, kind, length, data)})


WRONG_FIELDS = {
    "missing": (without("pads"), "field pads is missing"),
    "unknown": (having("groups", 5, 1, b"\x02\0\0\0"), "there is no field groups"),
    "internal": (having("planned_device", 5, 4, b"\0" * 16), "there is no field planned_device"),
    "workspace": (having("workspace_bytes", 5, 2, b"\1" * 8), "there is no field workspace_bytes"),
    "type": (having("density", 5, 1, b"\0\0\0\0"), "field density is of type FLOAT32, not INT32"),
    "length": (having("strides", 5, 1, b"\x01\0\0\0"), "field strides takes 2 numbers, not 1"),
    "value": (having("gate_source", 6, 4, b"self"), "gate_source must be fused or external"),
    "stride": (having("strides", 5, 2, b"\0" * 8), "strides, dilations, gate_strides and gate_dilations must be positive"),
    "grid": (
        having("gate_upsample", 1, 4, np.array([1, 1, 2, 3], np.float32).tobytes()),
        "gate_upsample must be 1, 1, G, G with a whole G >= 1",
    ),
    "slope": (having("gate_slope", 1, 1, np.array([1e31], np.float32).tobytes()), "gate_slope must not be above 1e+30"),
    "infinite": (having("gate_max", 1, 1, np.array([np.inf], np.float32).tobytes()), "must be finite"),
    "nan": (having("density", 1, 1, np.array([np.nan], np.float32).tobytes()), "density must be -1 or between 0 and 1"),
    "version": (having("plugin_version", 6, 1, b"2"), "plugin_version must be 1"),
}


@pytest.mark.parametrize("why", WRONG_FIELDS)
def test_fields_that_are_refused(trt_host: Path, tmp_path: Path, why: str) -> None:
    layer, words = WRONG_FIELDS[why]
    (answer,), messages = run(trt_host, [layer], tmp_path)
    assert answer.problem == "createPlugin returned null"
    assert words in messages
    assert layer.name in messages


def test_texts_need_no_zero_at_their_end(trt_host: Path, tmp_path: Path) -> None:
    """TensorRT's parser passes a text with its terminating zero, other callers may not."""
    (answer,), _ = run(trt_host, [having("gate_source", 6, 5, b"fused")], tmp_path)
    assert answer.problem == ""
