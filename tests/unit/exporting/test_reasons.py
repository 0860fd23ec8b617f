"""What the table of layers says of convolutions without a gate: their near miss, or that they compute a gate themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import lccl
from conftest import Outcome
from lccl.nn import LCCLConv2d
from support.graphs.net import Net

EXPORT = "lccl.cli.export"
Invoke = Callable[..., Outcome]


def reasons(model: onnx.ModelProto, tmp_path: Path) -> list[str]:
    """Of every convolution, in order; "" for a gated one."""
    return [layer.reason for layer in lccl.export(model, None, tmp_path / "m.onnx").layers]


def with_a_layer(net: Net, x: str, y: str) -> onnx.ModelProto:
    """The network with one gated convolution beside what is in question."""
    net.output(y)
    net.output(net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 1))))
    return net.model()


@pytest.mark.parametrize("named", [True, False], ids=["named", "without names"])
def test_a_refused_product_is_told_of_its_convolutions(tmp_path: Path, named: bool) -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    branch, gate, alone = net.conv(x, 3, 4), net.conv(x, 3, 1), net.conv(x, 3, 4)
    y = net.op("Add", net.op("Mul", net.op("Relu", branch), net.op("Sigmoid", gate)), alone)
    model = with_a_layer(net, x, y)
    for node in model.graph.node:
        node.name = node.name if named else ""
    told = reasons(model, tmp_path)
    assert "is never 0, so no pixel can be skipped" in told[0]
    assert told[1] == f"it computes the gate of {'node_' if named else ''}{branch}"
    assert told[2:] == ["the model has no gate here", ""]


def test_an_activation_that_the_op_does_not_have(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    y = net.op("Mul", net.op("HardSwish", net.conv(x, 3, 4)), net.op("Relu", net.conv(x, 3, 1)))
    told = reasons(with_a_layer(net, x, y), tmp_path)
    assert "is an activation that the op does not have" in told[0]
    assert told[1].startswith("it computes the gate of")


def test_a_pooled_convolution(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    pooled = net.op("MaxPool", net.conv(x, 3, 4), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = net.op("Mul", pooled, net.op("Relu", net.conv(x, 3, 1)))
    assert "which is not the output of one convolution" in reasons(with_a_layer(net, x, y), tmp_path)[0]


def test_an_option_1_mask_is_no_gate(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    y = net.op("Mul", net.conv(x, 3, 4), net.op("Relu", net.conv(x, 3, 4)))
    told = reasons(with_a_layer(net, x, y), tmp_path)
    assert "a mask for each of 4 channels" in told[0]
    assert told[1] == "the model has no gate here"


class Outside(nn.Module):
    """A gate that is computed from another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 1, 1)
        self.layer = LCCLConv2d(4, 4, 3, padding=1, gate="external")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.stem(x), gate=self.gate(x).relu())


@pytest.mark.slow
def test_a_gate_of_its_own(tmp_path: Path) -> None:
    result = lccl.export(Outside().eval(), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")
    assert {layer.name: layer.reason for layer in result.layers} == {
        "stem": "the model has no gate here",
        "gate": "it computes the gate of layer",
        "layer": "",
    }
    assert "it computes the gate of layer" in str(result)


def test_a_layer_that_was_put_back(tmp_path: Path) -> None:
    net = Net()
    x, mask = net.input("x", [2, 3, 8, 8]), net.input("mask", [2, 1, 8, 8])
    branch = net.conv(x, 3, 4)
    model = with_a_layer(net, x, net.op("Mul", branch, mask))
    inputs = {"x": np.ones((2, 3, 8, 8), np.float32), "mask": -np.ones((2, 1, 8, 8), np.float32)}
    layers = lccl.export(model, None, tmp_path / "m.onnx", data=inputs).layers
    assert [layer.reason for layer in layers] == ["its gate, input mask, has values below 0 in the given inputs", ""]


def test_json_where_nothing_is_found(invoke: Invoke, tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    branch = net.conv(x, 3, 4)
    net.output(net.op("Mul", branch, net.op("Sigmoid", net.conv(x, 3, 1))))
    onnx.save(net.model(), tmp_path / "near.onnx")
    outcome = invoke(EXPORT, tmp_path / "near.onnx", "-o", tmp_path / "m.onnx", "--json")
    told = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (1, f"error: {told['error']}\n")
    assert "nothing to gain" in told["error"]
    (miss,) = told["near_misses"]
    assert "is never 0" in miss["reason"]
    assert miss["conv"] == f"node_{branch}"
