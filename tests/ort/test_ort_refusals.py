"""What the op's library refuses, with one sentence; and its table of attributes, held to the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from conftest import ROOT
from lccl.op.contract import ATTRIBUTES, FLT_MAX, AttributeSpec
from lccl.op.reference import lccl_conv
from support.cases.op_cases import CASES
from support.graphs.models import case_model
from support.hosts.onnxruntime import DTYPES, assert_close, infer, open_session

PLAIN = CASES[0]
ANOTHER_KIND = {"ints": [1.0, 1.0], "floats": [1, 1, 1, 1], "float": 1, "string": 1.0}


def with_attribute(name: str, value: Any) -> onnx.ModelProto:
    """The plain case with one attribute changed; None leaves it out."""
    model, _ = case_model(PLAIN)
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])
    return model


def with_constant(name: str, shape: tuple[int, ...], dynamic: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
    model, feed = case_model(PLAIN, dynamic=dynamic)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    return model, feed


def refusal(model: onnx.ModelProto, library: Path, feed: dict[str, Any] | None = None) -> str:
    """What ONNX Runtime says: at the start if there is no feed, else at the start or on the feed."""
    with pytest.raises(Exception, match="LCCLConv") as raised:  # noqa: PT012
        session = open_session(model, library)
        assert feed is not None, "the session was made"
        session.run(None, feed)
    said = str(raised.value)
    assert said.count("\n") == 0
    return said


# ---- attributes ------------------------------------------------------------------------------------------------------


def test_the_table_of_attributes_is_the_contracts() -> None:
    """Names, order, kinds, lengths and defaults, as the adapters' common header writes them."""
    header = (ROOT / "contract" / "attributes.h").read_text()
    kinds = {"INTS": "ints", "FLOATS": "floats", "FLOAT": "float", "TEXT": "string"}
    table = re.findall(r"^ +(INTS|FLOATS|FLOAT|TEXT)\((\w+)(?:, (\d))?\) *\\?$", header, re.M)
    lengths = {s.name: len(s.default) if s.kind in ("ints", "floats") else 0 for s in ATTRIBUTES}
    assert [(n, kinds[k], int(length or 0)) for k, n, length in table] == [
        (s.name, s.kind, lengths[s.name]) for s in ATTRIBUTES
    ]
    members = dict(re.findall(r"^    (?:int32_t|float|std::string) (\w+)(?:\[\d\])?\{(.*)\};$", header, re.M))
    assert list(members) == [s.name for s in ATTRIBUTES]
    for spec in ATTRIBUTES:
        assert default_of(members[spec.name], spec) == spec.default


def default_of(text: str, spec: AttributeSpec) -> Any:
    """A C++ initialiser in Python."""
    if spec.kind == "string":
        return text.strip('"')
    numbers = [FLT_MAX if t == "FLT_MAX" else float(t.rstrip("F")) for t in text.split(", ")]
    return tuple(numbers) if spec.kind in ("ints", "floats") else numbers[0]


@pytest.mark.parametrize("spec", ATTRIBUTES, ids=[s.name for s in ATTRIBUTES])
def test_an_attribute_that_is_left_out_has_the_contracts_default(ort_library: Path, spec: AttributeSpec) -> None:
    session = open_session(with_attribute(spec.name, None), ort_library)
    values = PLAIN.attributes.as_dict() | {spec.name: spec.default}
    if spec.name == "pads":  # the case's are not the default: then the maps do not agree
        with pytest.raises(Exception, match=r"LCCLConv layer: the gate's convolution gives 9x11, but an output of 7x9"):
            session.run(None, {"X": PLAIN.inputs()["X"]})
        return
    expected = lccl_conv(PLAIN.inputs(), type(PLAIN.attributes)(**values))
    assert_close(infer(session, {"X": PLAIN.inputs()["X"]}), expected, np.float32)


@pytest.mark.parametrize("spec", ATTRIBUTES, ids=[s.name for s in ATTRIBUTES])
def test_an_attribute_of_another_kind_is_refused(ort_library: Path, spec: AttributeSpec) -> None:
    kinds = {"float": "a float", "string": "a string"}
    said = refusal(with_attribute(spec.name, ANOTHER_KIND[spec.kind]), ort_library)
    assert said.endswith(f"LCCLConv layer: {spec.name} must be {kinds.get(spec.kind, spec.kind)}")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("strides", [1, 1, 1], "strides takes 2 numbers, not 3"),
        ("strides", [0, 1], "gate_dilations must be positive"),
        ("pads", [-1, 0, 0, 0], "must not be negative"),
        ("dilations", [2**40, 1], "dilations must be 32-bit numbers, not 1099511627776"),
        ("gate_upsample", [1.0, 1.0, 2.0, 3.0], "with a whole G >= 1"),
        ("gate_slope", 1e31, "the slope of a hard mask"),
        ("gate_threshold", -1.0, "gate_threshold not negative"),
        ("post_alpha", float("nan"), "must be finite"),
        ("gate_source", "elsewhere", "gate_source must be fused or external"),
        ("density", 2.0, "density must be -1 or between 0 and 1"),
        ("plugin_version", "2", "the node is of another version of the op"),
        ("plugin_namespace", "x", "plugin_namespace must be empty"),
    ],
)
def test_a_value_that_the_contract_does_not_allow_is_refused(ort_library: Path, name: str, value: Any, words: str) -> None:
    assert refusal(with_attribute(name, value), ort_library).endswith(words)


# ---- shapes and types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("B", (7,), "B must be [6], not [7]"),
        ("post_scale", (3,), "post_scale must be [6] or [1], not [3]"),
        ("gate_B", (2,), "gate_B must be [1], not [2]"),
        ("gate", (3, 3), "gate must have 4 dimensions, not [3, 3]"),
        ("gate", (1, 1, 3, 3), "gate must be [1, 1, 9, 11] or [1, 1, 1, 1], not [1, 1, 3, 3]"),
        ("gate_W", (1, 1, 1, 7), "gate_W must be [1, Rg, Sg, 8], not [1, 1, 1, 7]"),
        ("gate_W", (1, 3, 3, 8), "the gate's convolution gives 7x9, but an output of 9x11 with G = 1 needs 9x11"),
        ("W", (6, 3, 3, 9), "groups are not part of version 1"),
        ("W", (6, 9, 9, 8), "kernels are 1x1 to 7x7, not 9x9"),
        ("residual", (1, 6, 9, 12), "residual must be [1, 6, 9, 11] or [1, 1, 1, 1], not [1, 6, 9, 12]"),
    ],
)
def test_a_wrong_shape_is_refused(ort_library: Path, name: str, shape: tuple[int, ...], words: str, dynamic: bool) -> None:
    model, feed = with_constant(name, shape, dynamic)
    if shape == (6, 9, 9, 8):  # its pads keep the size, so that nothing else is wrong
        node = model.graph.node[0]
        (pads,) = (a for a in node.attribute if a.name == "pads")
        pads.ints[:] = [4, 4, 4, 4]
    assert words in refusal(model, ort_library, feed)


def test_what_is_known_is_refused_before_the_first_call(ort_library: Path) -> None:
    model, _ = with_constant("gate", (1, 1, 3, 3), dynamic=False)
    assert "gate must be" in refusal(model, ort_library)


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_a_kernel_that_is_too_large_gets_no_session(ort_library: Path, dynamic: bool) -> None:
    """Else the model would fail at its first call, where it is too late for the function."""
    model, _ = with_constant("W", (6, 9, 9, 8), dynamic)
    (pads,) = (a for a in model.graph.node[0].attribute if a.name == "pads")
    pads.ints[:] = [4, 4, 4, 4]
    assert refusal(model, ort_library).endswith("LCCLConv layer: kernels are 1x1 to 7x7, not 9x9")


@pytest.mark.parametrize("dtype", DTYPES, ids=[d.name for d in DTYPES])
def test_an_external_gate_with_weights_of_its_own_is_refused(ort_library: Path, dtype: Any) -> None:
    """The kernels would not read them, and the function would."""
    case = next(case for case in CASES if case.gate == "external")
    model, _ = case_model(case, dtype)
    (weight,) = (t for t in model.graph.initializer if t.name == "gate_W")
    weight.CopyFrom(numpy_helper.from_array(np.ones(tuple(weight.dims), dtype), "gate_W"))
    assert refusal(model, ort_library).endswith("gate_source is external, but gate_W is not 0")


def test_an_image_that_is_too_small_is_refused(ort_library: Path) -> None:
    model, _ = case_model(PLAIN)
    said = refusal(model, ort_library, {"X": np.zeros((1, 8, 0, 5), np.float32)})
    assert said.endswith("LCCLConv layer: X of 0x5 is smaller than the kernel 3x3 with its pads")


def test_float64_is_refused(ort_library: Path) -> None:
    """By ONNX Runtime, from the op's table of types; without the library its own convolution refuses float64."""
    model, _ = case_model(PLAIN, np.float64)
    assert "Type 'tensor(double)' of input parameter (X) of operator (LCCLConv) in node (layer) is invalid" in refusal(
        model, ort_library
    )


@pytest.mark.parametrize("name", ["W", "B", "residual"])
def test_mixed_types_are_refused(ort_library: Path, name: str) -> None:
    """ONNX Runtime finds no kernel; the function would not do either."""
    model, _ = case_model(PLAIN)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name))
    wrong = r"Op \(LCCLConv\).*no kernel def matches|Type 'tensor\(float16\)' of input parameter \(B\) of operator \(LCCLConv\)"
    with pytest.raises(Exception, match=wrong):
        open_session(model, ort_library)


# ---- LCCL_CPU_ISA --------------------------------------------------------------------------------------------------


def test_an_instruction_set_that_is_not_here_is_refused(ort_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = case_model(PLAIN)
    monkeypatch.setenv("LCCL_CPU_ISA", "sse9")
    said = refusal(model, ort_library)
    assert re.search(r"LCCL_CPU_ISA is sse9: on this machine it may be (\w+ or )*portable$", said)
    monkeypatch.setenv("LCCL_CPU_ISA", "neon" if "neon" not in said else "avx2")
    refusal(model, ort_library)


def test_every_instruction_set_of_this_machine_can_be_named(ort_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = case_model(PLAIN)
    monkeypatch.setenv("LCCL_CPU_ISA", "sse9")
    isas = refusal(model, ort_library).rsplit("may be ", 1)[1].split(" or ")
    results = {}
    for isa in isas:
        monkeypatch.setenv("LCCL_CPU_ISA", isa)
        results[isa] = infer(open_session(model, ort_library), feed)
        assert_close(results[isa], lccl_conv(PLAIN.inputs(), PLAIN.attributes), np.float32)
    assert "portable" in results
