"""Random inputs: the whole range of images, zeros in what may be a mask, indices of what is there; and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lccl.exporting.results import describe_values
from lccl.graph.feeds import random_feed
from lccl.numerics import Array

Node = onnx.NodeProto
node = helper.make_node


def network(kind: int, shape: list[Any], nodes: list[Node], constants: dict[str, Array] | None = None) -> onnx.ModelProto:
    """A graph that reads x and whose last node gives its output."""
    value = helper.make_tensor_value_info
    stored = [numpy_helper.from_array(values, name) for name, values in (constants or {}).items()]
    output = [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "g", [value("x", kind, shape)], output, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


TO_FLOAT = [node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]


@pytest.mark.parametrize(
    ("kind", "shape", "least", "most"),
    [
        (TensorProto.UINT8, ["N", 3, 32, 32], 0, 255),
        (TensorProto.UINT8, ["N", 32, 32, 4], 0, 255),
        (TensorProto.UINT16, [1, 2, 300, 300], 0, 65535),
        (TensorProto.INT8, ["N", 3, 32, 32], -128, 127),
    ],
)
def test_images_have_values_of_the_whole_range(kind: int, shape: list[Any], least: int, most: int) -> None:
    x = random_feed(network(kind, shape, TO_FLOAT))["x"]
    assert x.min() <= least + (most - least) // 50
    assert x.max() >= most - (most - least) // 50
    assert 0.4 < (x > (least + most) / 2).mean() < 0.6


@pytest.mark.parametrize("shape", [["N", 1, 32, 32], ["N", 32, 32, 1], ["N", 500]])
def test_what_may_be_a_mask_is_half_zero(shape: list[Any]) -> None:
    x = random_feed(network(TensorProto.UINT8, shape, TO_FLOAT))["x"]
    assert 0.4 < (x == 0).mean() < 0.6
    assert 0.15 < (x == 1).mean() < 0.35
    assert 0.15 < (x > 1).mean() < 0.35
    assert x.max() > 230


TABLE = np.arange(14, dtype=np.float32).reshape(7, 2)
INDEXING = {
    "Gather": ([node("Gather", ["table", "x"], ["y"])], {"table": TABLE}, 7),
    "Gather, second axis": ([node("Gather", ["table", "x"], ["y"], axis=1)], {"table": TABLE}, 2),
    "Gather, axis from the end": ([node("Gather", ["table", "x"], ["y"], axis=-2)], {"table": TABLE}, 7),
    "behind casts and views": (
        [node("Cast", ["x"], ["c"], to=7), node("Reshape", ["c", "s"], ["r"]), node("Gather", ["table", "r"], ["y"])],
        {"table": TABLE, "s": np.array([-1])},
        7,
    ),
    "two tables": (
        [node("Gather", ["table", "x"], ["a"]), node("Gather", ["small", "x"], ["b"]), node("Add", ["a", "b"], ["y"])],
        {"table": TABLE, "small": TABLE[:5]},
        5,
    ),
    "GatherElements": (
        [node("Flatten", ["x"], ["f"], axis=0), node("GatherElements", ["row", "f"], ["y"], axis=1)],
        {"row": np.arange(9, dtype=np.float32)[None]},
        9,
    ),
}


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8])
@pytest.mark.parametrize("name", INDEXING)
def test_indices_choose_from_what_is_there(name: str, kind: int) -> None:
    import onnxruntime

    nodes, constants, entries = INDEXING[name]
    if kind == TensorProto.UINT8:
        nodes = [node("Cast", ["x"], ["wide"], to=7), *(rewired(n) for n in nodes)]
    model = network(kind, [40], nodes, constants)
    feed = random_feed(model)
    assert set(feed["x"].tolist()) == set(range(entries))
    onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)  # type: ignore[arg-type]


def rewired(given: Node) -> Node:
    """The node with the input that was cast."""
    out = onnx.NodeProto()
    out.CopyFrom(given)
    out.input[:] = ["wide" if name == "x" else name for name in given.input]
    return out


def test_of_a_table_of_unknown_size_the_first_entry_is_taken() -> None:
    model = network(TensorProto.INT64, [40], [node("Shape", ["x"], ["t"]), node("Gather", ["t", "x"], ["y"])])
    assert set(random_feed(model)["x"].tolist()) == {0}


def test_float64_is_random_too() -> None:
    assert random_feed(network(TensorProto.DOUBLE, [4, 100], TO_FLOAT))["x"].std() > 0.5


def test_what_is_said_of_the_values() -> None:
    feeds = [
        {"image": np.array([0, 255], np.uint8), "open": np.array([True, False]), "rate": np.array(0), "x": np.ones(2)},
        {"image": np.array([3, 7], np.uint8), "open": np.array([True, True]), "rate": np.array(0), "x": np.ones(2)},
    ]
    assert describe_values(feeds) == {"image": "uint8 from 0 to 255", "open": "true and false", "rate": "int64, all 0"}
    assert describe_values([{"open": np.array([True])}]) == {"open": "bool, all true"}


def test_an_export_says_what_it_was_checked_on(invoke: Callable[..., Any], exported: Path, tmp_path: Path) -> None:
    """The small model behind an image of bytes, as cameras give them."""
    model = onnx.load(exported)
    graph = model.graph
    nodes = [node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT), node("Div", ["levels", "most"], ["unit"])]
    nodes.append(node("ReduceMean", ["unit", "channel_axis"], ["x"]))
    for made in reversed(nodes):
        graph.node.insert(0, made)
    graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "most"))
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "channel_axis"))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 16, 16]))
    onnx.save(model, tmp_path / "bytes.onnx")
    outcome = invoke("lccl.cli.export", tmp_path / "bytes.onnx", "-o", tmp_path / "m.onnx")
    assert outcome.code == 0, outcome.err
    assert "over 2 random inputs (image: uint8 from 0 to 255)" in " ".join(outcome.out.split())
