"""What the plugin does where something is wrong, or where TensorRT calls in another order: workspaces, pointers, GPUs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lccl.backends.torch.cuda.interface import Device, Dtype
from lccl.backends.torch.cuda.library import Library
from lccl.backends.torch.cuda.planning import conv_params
from lccl.op.contract import INPUT_NAMES
from support.cases.op_cases import Case
from support.hosts.plugin import Answer, Field, Layer, assert_close, run

EVERYTHING = Case("everything", "all nine inputs", n=2, gate="both", post=True, residual=True)
EMULATED = (90, 132, 232448, 233472)
"""What the emulated machine says it is."""
NO_GPU = 1 << 50
"""Bytes that no GPU has."""
LAST = 2**63


def layer(dtype: Dtype = Dtype.FLOAT16) -> Layer:
    return Layer.of(EVERYTHING, dtype)


def field(name: str, *values: int) -> Field:
    return name, 5, len(values), np.array(values, np.int64).astype(np.uint32).tobytes()


def engine(one: Layer, workspace: int | None) -> Layer:
    """The layer with an engine's fields; None: of a plugin that did not write how much workspace there is."""
    own = [field("alias_residual", 0), field("time_by_density", 0), field("planned_device", *EMULATED)]
    if workspace is not None:
        own.append(field("workspace_bytes", workspace & 0xFFFFFFFF, workspace >> 32))
    return dataclasses.replace(one, fields=dict(one.fields) | {f[0]: f for f in own})


def needed(one: Layer, library: Library) -> int:
    """Bytes that the kernels' own choice takes for the layer."""
    params = conv_params({name: one.inputs[name].shape for name in INPUT_NAMES}, one.attributes, one.dtype)
    device = Device(*EMULATED)
    return library.workspace(params, device, library.choose(params, device))


def only(answers: tuple[list[Answer], str]) -> tuple[Answer, str]:
    (answer,), messages = answers
    return answer, messages


def test_an_engine_runs_in_the_workspace_that_was_asked_for(trt_host: Path, emulator_library: Library, tmp_path: Path) -> None:
    """And in more, of which the upper 32 bits count, too."""
    one = layer()
    need = needed(one, emulator_library)
    answers, messages = run(trt_host, [engine(one, size) for size in (need, need + 1, 1 << 32)], tmp_path, walk="engine")
    assert messages == ""
    for answer in answers:
        assert answer.problem == ""
        assert_close(one, one.output(answer.outputs["y"]))


def test_a_call_that_needs_more_workspace_is_refused(trt_host: Path, emulator_library: Library, tmp_path: Path) -> None:
    """An engine of another build of the kernels."""
    one = layer()
    need = needed(one, emulator_library)
    assert need > 1
    given = (need - 1, 1)
    answers, messages = run(trt_host, [engine(one, size) for size in given], tmp_path, walk="engine")
    assert [(answer.problem, answer.facts["untouched"]) for answer in answers] == [("enqueue failed", True)] * len(given)
    assert messages.splitlines() == [
        f"LCCLConv {one.name}: the workspace has {size} bytes, and the call needs {need}" for size in given
    ]


def test_an_engine_whose_plugin_nobody_asked(trt_host: Path, tmp_path: Path) -> None:
    """It says 0: how much TensorRT gives is not known. It runs, and a warning says what that rests on."""
    one = layer()
    answer, messages = only(run(trt_host, [engine(one, 0)], tmp_path, walk="engine"))
    assert answer.problem == ""
    assert_close(one, one.output(answer.outputs["y"]))
    (line,) = messages.splitlines()
    assert line.startswith(f"LCCLConv {one.name}: the engine does not say how much workspace it has")


@pytest.mark.parametrize(
    ("workspace", "words"),
    [
        (None, "field workspace_bytes is missing: the engine is of another version of the plugin, build it again"),
        (LAST, "planned_device and workspace_bytes must not be negative"),
    ],
)
def test_engines_that_do_not_say_how_much_there_is(trt_host: Path, tmp_path: Path, workspace: int | None, words: str) -> None:
    one = layer()
    answer, messages = only(run(trt_host, [engine(one, workspace)], tmp_path, walk="engine"))
    assert answer.problem == "createPlugin returned null"
    assert messages == f"LCCLConv {one.name}: {words}\n"


def test_what_an_engine_keeps_of_the_workspace(trt_host: Path, tmp_path: Path) -> None:
    """The largest that TensorRT was told, or would be told of the shapes at hand, whatever is cloned in between."""
    answer, messages = only(run(trt_host, [layer()], tmp_path, walk="workspace"))
    assert answer.problem == ""
    kept = answer.facts
    small, large = kept.pop("small"), kept.pop("large")
    assert 0 < small < large
    assert kept.pop("neither") == 0
    assert kept.pop("asked") == small
    assert kept.pop("engine that is asked") == 0, "the memory of an engine is laid out already"
    failed = kept.pop("failed")
    assert NO_GPU <= failed < LAST // 2**10, "sizes are rounded up and added up"
    assert messages.startswith(f"LCCLConv {layer().name}: W is [K, R, S, C] with C = ")
    assert set(kept.values()) == {large}, kept
    assert set(kept) == {
        "asked twice",
        "configured",
        "clone",
        "context",
        "smaller afterwards",
        "after a failure",
        "by a clone",
        "engine",
    }


@pytest.mark.parametrize("dtype", [Dtype.FLOAT16, Dtype.FLOAT32], ids=lambda d: d.name.lower())
def test_pointers_that_the_kernels_do_not_take(trt_host: Path, tmp_path: Path, dtype: Dtype) -> None:
    """Each has a sentence of its own, with the layer's name; gate_B alone may be null, which stands for 1."""
    one = layer(dtype)
    answer, messages = only(run(trt_host, [one], tmp_path, walk="pointers"))
    assert answer.problem == ""
    names = dict(
        zip(INPUT_NAMES, ("x", "weight", "bias", "gate_weight", "", "gate", "post_scale", "post_bias", "residual"), strict=True)
    )
    names |= {"Y": "y", "workspace": "the workspace"}
    vectors = {"X", "W", "gate_W", "residual", "Y", "workspace"}
    expected = []
    for name, kernels in names.items():
        if kernels:
            expected.append((f"{name} null", f"{kernels} is null, and the call needs it"))
        if name in vectors:
            expected.append((f"{name} misaligned", f"{kernels} is not aligned: its address must be a multiple of 16"))
    assert answer.facts["refused"] == [call for call, _ in expected]
    assert messages.splitlines() == [f"LCCLConv {one.name}: {words}" for _, words in expected]
    assert_close(one, one.output(answer.outputs["y"]))


def test_the_gpu_at_hand_is_asked_for_with_every_shape(trt_host: Path, tmp_path: Path) -> None:
    """Kernels are loaded on the GPU that a context or its clone is on, also where nothing else has changed."""
    one = layer()
    answer, messages = only(run(trt_host, [one], tmp_path, walk="gpus"))
    assert answer.problem == ""
    assert answer.facts["loads"] == {
        "build without a GPU": [],
        "build": [],
        "shapes": [90],
        "same shapes": [90],
        "clone on another GPU": [80],
        "same shapes on another GPU": [80],
        "clone on a GPU that is too old": [],
        "shapes on a GPU that is too old": [],
        "enqueue after that": [],
        "any tactic on a GPU that is too old": [],
        "no code for the GPU that was planned for": [80],
        "no code for the GPU at hand": [],
        "back": [90],
    }
    failing = ("build without", "clone on a GPU", "shapes on a GPU", "enqueue after", "any tactic", "no code for the GPU at")
    assert [step.startswith(failing) for step in answer.facts["loads"]] == [
        step in answer.facts["failed"] for step in answer.facts["loads"]
    ]
    assert answer.facts["queries in enqueue"] == 0
    words = [line.removeprefix(f"LCCLConv {one.name}: ") for line in messages.splitlines()]
    assert words[0] == "no CUDA device can be used (CUDA error 101)"
    assert words[3] == "enqueue without onShapeChange"
    assert all("compute capability" in sentence for sentence in (words[1], words[2], words[4], words[5])), words
    for name in ("first GPU", "other GPU"):
        assert_close(one, one.output(answer.outputs[name]))
