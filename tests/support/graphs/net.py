"""Networks in standard ONNX ops, written node by node as exporters leave them, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lccl.op.contract import DOMAIN, VERSION
from lccl.op.onnx_op import IR_VERSION, OPSET

Dim = int | str


class Net:
    """A graph that grows node by node; every method returns the name of the tensor that it adds.

    Args:
        dtype: of feature maps and weights.
        opset: of the standard ops.
    """

    def __init__(self, dtype: Any = np.float32, opset: int = OPSET, seed: int = 0) -> None:
        self.dtype, self.opset = np.dtype(dtype), opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[Dim], element: int | None = None) -> str:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype) if element is None else element
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, element: int | None = None) -> None:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype) if element is None else element
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def const(self, values: Any, dtype: Any = None) -> str:
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(values, self.dtype if dtype is None else dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], f"node_{name}", **attributes))
        return name

    def conv(
        self,
        x: str,
        c: int,
        k: int,
        size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        pads: Sequence[int] | None = None,
        bias: bool = True,
        shift: float = 0.0,
        **attributes: Any,
    ) -> str:
        """A convolution that keeps the size but for its stride.

        Args:
            shift: added to the random bias; it decides how many pixels of a gate are open.
        """
        group = attributes.get("group", 1)
        weight = self.rng.standard_normal((k, c // group, size, size)) * (c // group * size * size) ** -0.5
        inputs = [x, self.const(weight)]
        if bias:
            inputs.append(self.const(self.rng.standard_normal(k) * 0.1 + shift))
        if "auto_pad" not in attributes:
            attributes["pads"] = [dilation * (size - 1) // 2] * 4 if pads is None else list(pads)
        return self.op("Conv", *inputs, strides=[stride] * 2, dilations=[dilation] * 2, kernel_shape=[size] * 2, **attributes)

    def bn(self, x: str, c: int) -> str:
        values = (self.rng.uniform(0.5, 1.5, c), *self.rng.standard_normal((2, c)) * 0.1, self.rng.uniform(0.5, 1.5, c))
        return self.op("BatchNormalization", x, *(self.const(v) for v in values), epsilon=1e-5)

    def model(self) -> onnx.ModelProto:
        """The model; its last tensor is its output unless others were named."""
        if not self.outputs:
            self.output(self.nodes[-1].output[0])
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.stored)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain == DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(DOMAIN, VERSION))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return onnx.shape_inference.infer_shapes(model)
