"""Lower precision of files as other tools leave them: what they say of their values, outputs, branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx import TensorProto as T

from lccl.engine import build_engine
from lccl.errors import UserError
from lccl.graph.checks import check_types
from lccl.graph.variants.precision import to_precision

Array = np.ndarray
SHAPES = {"x": ["n", 3, 8, 8], "r": ["n", 4, 8, 8], "y": ["n", 2, 8, 8], "q": ["n", 3, 8, 8], "w2": [2, 4, 1, 1], "k": [1]}


def value(name: str, kind: int = T.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, SHAPES.get(name, ["n", 2, "h", "w"]))


def stored(name: str, *values: object, kind: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(values if len(values) != 1 else values[0], kind), name)


def branch(nodes: Iterable[NodeProto], output: str, *weights: TensorProto, says: Iterable[str] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), f"b{output}", [], [value(output)], list(weights), value_info=[value(n) for n in says])


@dataclass(frozen=True)
class File:
    """Two convolutions with a ReLU between, and what a tool added."""

    why: str
    more: Callable[[], list[NodeProto]] = list
    outputs: tuple[str, ...] = ("y",)
    says: tuple[str, ...] = ()
    """What ``value_info`` lists."""
    weights: tuple[TensorProto, ...] = ()
    inputs: tuple[str, ...] = ("x",)
    names: bool = True
    kinds: dict[str, int] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        w = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5, "w")
        w2 = numpy_helper.from_array(rng.standard_normal((2, 4, 1, 1)).astype(np.float32), "w2")
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "w2"], ["y"], "conv2"),
            *self.more(),
        ]
        for node in nodes:
            node.name = node.name if self.names else ""
        inputs = [
            value(n) if n == "x" else helper.make_tensor_value_info(n, T.FLOAT, list({"w": w, "w2": w2}[n].dims))
            for n in self.inputs
        ]
        outputs = [value(n, self.kinds.get(n, T.FLOAT)) for n in self.outputs]
        said = [value(n, self.kinds.get(n, T.FLOAT)) for n in self.says]
        graph = helper.make_graph(nodes, self.why, inputs, outputs, [w, w2, *self.weights], value_info=said)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def an_if(then: onnx.GraphProto, other: onnx.GraphProto) -> list[NodeProto]:
    return [helper.make_node("If", ["c"], ["z"], "if", then_branch=then, else_branch=other)]


TWICE = stored("scales", 1, 1, 2, 2)
FILES = (
    File("an output", says=("y",)),
    File("an input", says=("x",)),
    File("everything, and twice", says=("x", "y", "r", "r", "w2")),
    File("an output that is read", outputs=("y", "r"), says=("y", "r")),
    File("an output of a node kept in float32", lambda: [resize("y")], ("z",), ("z", "y"), (TWICE,)),
    File("such a node behind an output", lambda: [resize("y")], ("z", "y"), ("z", "y"), (TWICE,)),
    File(
        "two outputs of a node kept in float32",
        lambda: [helper.make_node("TopK", ["y", "count"], ["z", "place"], "top", axis=3)],
        ("z", "place"),
        ("z", "place"),
        (numpy_helper.from_array(np.array([2]), "count"),),
        kinds={"place": T.INT64},
    ),
    File(
        "an output behind a cast",
        lambda: [
            helper.make_node("Cast", ["y"], ["i"], "to", to=T.INT32),
            helper.make_node("Cast", ["i"], ["z"], "from", to=T.FLOAT),
        ],
        ("z",),
        ("z", "i"),
        kinds={"i": T.INT32},
    ),
    File("an output that is an input", outputs=("y", "x"), says=("x",)),
    File(
        "an output that is a copy of an input", lambda: [helper.make_node("Identity", ["x"], ["q"], "copy")], ("y", "q"), ("q",)
    ),
    File("an output that is a weight", outputs=("y", "w2"), says=("w2",)),
    File("an output listed twice", outputs=("y", "y"), says=("y",)),
    File("weights among the inputs", inputs=("x", "w", "w2"), says=("y",)),
    File("no names, two readers", lambda: [helper.make_node("Relu", ["x"], ["q"])], ("y", "q"), ("y",), names=False),
    File(
        "a branch",
        lambda: an_if(
            branch(
                [helper.make_node("Relu", ["y"], ["s"], "s"), helper.make_node("Neg", ["s"], ["t"], "t")], "t", says=("s", "t")
            ),
            branch([helper.make_node("Identity", ["y"], ["e"], "e")], "e", says=("e",)),
        ),
        ("z",),
        ("z", "y"),
        (stored("c", True, kind=bool),),
    ),
    File(
        "weights of one name in two branches",
        lambda: an_if(
            branch([helper.make_node("Mul", ["y", "k"], ["t"], "m")], "t", stored("k", 1 / 3)),
            branch([helper.make_node("Mul", ["y", "k"], ["t"], "m")], "t", stored("k", 2 / 3)),
        ),
        ("z",),
        ("z",),
        (stored("c", False, kind=bool),),
    ),
    File(
        "a weight that only branches read",
        lambda: an_if(
            branch([helper.make_node("Mul", ["y", "k"], ["t"], "m")], "t"),
            branch(
                [helper.make_node("Cast", ["c"], ["f"], "f", to=T.FLOAT), helper.make_node("Mul", ["y", "f"], ["t"], "m")], "t"
            ),
        ),
        ("z",),
        ("z",),
        (stored("c", True, kind=bool), stored("k", 2 / 3)),
    ),
)


def resize(name: str) -> NodeProto:
    return helper.make_node("Resize", [name, "", "scales"], ["z"], "resize", mode="nearest")


def outputs_of(model: onnx.ModelProto, x: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return list(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x}))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.why)
def test_what_a_file_says_of_its_values(file: File, precision) -> None:
    model = file.model()
    before = model.SerializeToString()
    converted = to_precision(model, precision)
    assert model.SerializeToString() == before, "the given model is not changed"
    check_types(model, converted)
    assert [v.name for v in converted.graph.output] == list(file.outputs)
    low = {"fp16": T.FLOAT16, "bf16": T.BFLOAT16}[precision]
    assert low in {t.data_type for t in converted.graph.initializer}
    if precision == "fp16":
        onnx.checker.check_model(converted, full_check=True)
        x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
        for wide, half in zip(outputs_of(model, x), outputs_of(converted, x), strict=True):
            assert half.dtype == wide.dtype
            if "place" not in file.outputs or wide.dtype == np.float32:
                np.testing.assert_allclose(half, wide, atol=1 if "i" in file.says else 1e-2)
    else:
        assert T.FLOAT16 not in all_types(converted.graph)


def all_types(graph: onnx.GraphProto) -> set[int]:
    """Of what is stored, cast to and said, in branches too."""
    found = {t.data_type for t in graph.initializer}
    found |= {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        for attribute in node.attribute:
            found |= {attribute.i} if attribute.name == "to" else set()
            found |= all_types(attribute.g) if attribute.HasField("g") else set()
    return found


def test_a_weight_of_a_branch_that_float16_cannot_hold() -> None:
    file = next(f for f in FILES if f.why == "weights of one name in two branches")
    model = file.model()
    model.graph.node[-1].attribute[0].g.initializer[0].CopyFrom(stored("k", 1e6))
    with pytest.raises(UserError, match=r"^k holds values above 65504"):
        to_precision(model, "fp16")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("why", ["an output", "an output that is read", "such a node behind an output"])
def test_engines_of_such_files(tmp_path: Path, precision, why: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    onnx.save(next(f for f in FILES if f.why == why).model(), tmp_path / "m.onnx")
    options = {"backend": "tensorrt-rtx", "compute_capabilities": ["8.9"]}
    assert build_engine(tmp_path / "m.onnx", precision=precision, **options).bytes > 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_file_that_is_of_float16_in_part(precision: Any) -> None:
    nodes = [helper.make_node("Cast", ["h"], ["x"], to=T.FLOAT), helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("h", T.FLOAT16)], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(UserError, match="cannot be converted to"):
        to_precision(model, precision)
