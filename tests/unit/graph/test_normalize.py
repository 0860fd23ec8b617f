"""The normalized copy of a graph, and the way back from it."""

from __future__ import annotations

import gc
from typing import Any

import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto

from lccl.graph.recognise import normalize, recognise
from lccl.op.onnx_op import register_schema
from support.graphs.net import Net
from support.graphs.recognised_runs import require_equal

register_schema()
LAYERS = 30


@pytest.mark.slow
def test_tensors_that_the_copy_loses_are_not_taken_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A freed object's id goes to the next object, and ids lead from the copy back to the graph."""
    add = normalize._Rewriting._add

    def collect_and_add(self: Any, *args: Any) -> gs.Tensor:
        gc.collect()
        return add(self, *args)

    monkeypatch.setattr(normalize._Rewriting, "_add", collect_and_add)
    net = Net()
    x = net.input("x", [1, 4, 6, 6])
    for i in range(LAYERS):
        closed = net.input(f"closed{i}", [1, 1, 6, 6], TensorProto.BOOL)
        x = net.op("Relu", net.op("Where", closed, net.const(0), net.conv(x, 4, 4)))
    model = net.model()
    found = recognise(model)
    assert len(found.layers) == LAYERS, found.near_misses
    masks = {node.name: node.input for node in found.model.graph.node if node.op_type == "Not"}
    assert sorted(name for inputs in masks.values() for name in inputs) == sorted(f"closed{i}" for i in range(LAYERS))
    require_equal(model, found, seeds=1)
