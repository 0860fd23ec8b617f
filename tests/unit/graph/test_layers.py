"""The table of convolutions says of each why it has no gate."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from lccl.graph.layers import describe_layers
from lccl.op.contract import Attributes
from lccl.op.onnx_op import make_node


def test_every_kind_of_convolution() -> None:
    weights = {
        "w": (6, 3, 3, 4),
        "g": (1, 8, 8, 4),
        "plain": (8, 4, 3, 3),
        "depthwise": (8, 1, 3, 3),
        "up": (8, 4, 2, 2),
        "line": (8, 4, 3),
    }
    grid = Attributes(strides=(2, 1), gate_upsample=(1, 1, 4, 4))
    nodes = [
        make_node(["x", "w", "b", "g", *"abcde"], ["y0"], grid, "gated"),
        make_node(["x", "w", "b", "g", *"abcde"], ["y1"], Attributes(gate_source="external"), "outside"),
        helper.make_node("Conv", ["x", "plain"], ["y2"], "plain", strides=[2, 2]),
        helper.make_node("Conv", ["x", "depthwise"], ["y3"], "depthwise", group=8),
        helper.make_node("ConvTranspose", ["x", "up"], ["y4"], "up"),
        helper.make_node("Conv", ["x", "line"], ["y5"], "line"),
        helper.make_node("Relu", ["x"], ["y6"]),
    ]
    stored = [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in weights.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], stored))
    layers = {layer.name: layer for layer in describe_layers(model)}
    assert list(layers) == ["gated", "outside", "plain", "depthwise", "up", "line"]
    gated = layers["gated"]
    assert (gated.gated, gated.gate, gated.reason) == (True, "8x8 per 4x4 block", "")
    assert (gated.kernel, gated.in_channels, gated.out_channels, gated.strides) == ((3, 3), 4, 6, (2, 1))
    assert layers["outside"].gate == "external"
    assert layers["plain"].reason == "the model has no gate here"
    assert (layers["depthwise"].in_channels, layers["depthwise"].out_channels) == (8, 8)
    assert "grouped" in layers["depthwise"].reason
    assert "transposed" in layers["up"].reason
    assert (layers["up"].in_channels, layers["up"].out_channels) == (8, 4)
    assert "2-D" in layers["line"].reason
