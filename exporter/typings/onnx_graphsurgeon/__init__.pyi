"""Types of onnx-graphsurgeon, which has none: the part that this project uses."""

from collections.abc import Iterable
from typing import Any

import onnx
from onnx_graphsurgeon.ir.tensor import Constant as Constant
from onnx_graphsurgeon.ir.tensor import Tensor as Tensor
from onnx_graphsurgeon.ir.tensor import Variable as Variable

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: dict[str, Any] | None = None,
        inputs: list[Tensor] | None = None,
        outputs: list[Tensor] | None = None,
        domain: str | None = None,
    ) -> None: ...
    @property
    def inputs(self) -> list[Tensor]: ...
    @inputs.setter
    def inputs(self, value: Iterable[Tensor]) -> None: ...
    @property
    def outputs(self) -> list[Tensor]: ...
    @outputs.setter
    def outputs(self, value: Iterable[Tensor]) -> None: ...

class Function:
    name: str
    domain: str

class Graph:
    nodes: list[Node]
    inputs: list[Variable]
    outputs: list[Tensor]
    opset: int
    functions: list[Function]
    import_domains: list[onnx.OperatorSetIdProto] | None
    def cleanup(self, remove_unused_node_outputs: bool = False, *, remove_unused_graph_inputs: bool = False) -> Graph: ...
    def toposort(self, *, mode: str = "full") -> Graph: ...
    def fold_constants(self, fold_shapes: bool = True) -> Graph: ...
    def copy(self) -> Graph: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def subgraphs(self, recursive: bool = False) -> Iterable[Graph]: ...

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph, do_type_check: bool = True) -> onnx.ModelProto: ...
