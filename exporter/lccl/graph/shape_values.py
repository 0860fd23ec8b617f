"""Sizes that a graph computes from shapes: which of their elements are known, and the shapes then.

onnx's own inference carries sizes through Shape, Gather and Concat, and loses them at what
exporters write around Expand, Tile, Reshape, Resize and Slice (ConstantOfShape, Equal, Where). So
its rules are asked node by node here, with the values that are known so far.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper

from lccl.graph.op_sets import RESHAPES, SHAPE_READERS, SIZE_ARITHMETIC, SIZES_FROM_KNOWN
from lccl.numerics import Array

Dims = tuple[int | None, ...]
"""A shape; None for an axis that is not known."""

_LIMIT = 128
"""The most elements of a tensor whose values are followed."""
_KNOWN, _A_SIZE, _UNKNOWN = 0, 1, 2
_MOVES = RESHAPES | {"Identity", "Cast", "Gather", "Slice", "Transpose", "Expand", "Tile"}
"""Each element of the result is one of the first input."""
_KEEP_SIGN = frozenset({"Add", "Mul", "Max", "Min"})
"""What they make of numbers from 0 is from 0."""
_WIDE = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE)
"""Types that hold every size of a tensor as a number above 0."""
_READ_SIZES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1, "Resize": 3}
"""The input by which each decides its output's shape."""


@dataclass(frozen=True)
class Known:
    """Values of a small tensor, as far as they are known."""

    values: Array
    """The values; any number from 1 stands for an element that is not known."""
    doubt: Array
    """For each element: 0 known, 1 not known but at least 0, 2 not known."""

    @staticmethod
    def stored(values: Array) -> Known:
        """Return values that are all known."""
        return Known(values, np.zeros(values.shape, np.int64))

    @property
    def whole(self) -> bool:
        """Whether every element is known."""
        return not self.doubt.any()

    def sizes(self) -> Dims:
        """Return the elements of a list of sizes."""
        return tuple(None if d else int(v) for v, d in zip(self.values.flat, self.doubt.flat, strict=True))


@dataclass(frozen=True)
class Propagated:
    """What is known of a graph's tensors."""

    shapes: dict[str, Dims]
    """Tensor -> its shape, if its rank is known."""
    values: dict[str, Known]
    """Tensor that is computed from shapes -> its values."""


def computes_sizes(graph: onnx.GraphProto) -> bool:
    """Return whether a node of the graph asks for a shape."""
    return any(node.op_type in SHAPE_READERS for node in graph.node)


def propagated(model: onnx.ModelProto) -> Propagated:
    """Return the shapes and sizes that are known at every size of the inputs' unknown axes.

    Args:
        model: a model with the types and shapes that onnx infers, without its large weights.
    """
    types = {v.name: v.type for v in (*model.graph.value_info, *model.graph.output, *model.graph.input)}
    shapes = {name: _dims(kind) for name, kind in types.items() if kind.tensor_type.HasField("shape")}
    if not computes_sizes(model.graph):
        return Propagated(shapes, {})
    walk = _Walk(model, types, shapes)
    for node in model.graph.node:
        walk.visit(node)
    return Propagated(walk.shapes, walk.values)


def fold_known_sizes(model: onnx.ModelProto, known: Propagated) -> None:
    """Make a constant of each value that the model computes from shapes and that is known in full.

    The model is changed in place. What depends on a dynamic size stays computed; what nothing reads
    any longer goes.
    """
    folded = {name: value.values for name, value in known.values.items() if value.whole}
    for node in model.graph.node:
        if len(node.output) == 1 and node.output[0] in folded:
            tensor = numpy_helper.from_array(np.asarray(folded[node.output[0]]))
            constant = helper.make_node("Constant", [], [node.output[0]], node.name, value=tensor)
            node.CopyFrom(constant)
    kept: list[NodeProto] = []
    read = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if not read.isdisjoint(node.output) or not all(name in known.values for name in node.output):
            kept.append(node)
            read.update(_read_by(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))


def _read_by(node: NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, those of its branches and loop bodies too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _read_by(inner)


class _Walk:
    """The nodes of a graph in order, and what is known so far."""

    def __init__(self, model: onnx.ModelProto, types: Mapping[str, TypeProto], shapes: dict[str, Dims]) -> None:
        self.shapes, self.values = shapes, dict[str, Known]()
        self._opsets, self._version = list(model.opset_import), {o.domain or "ai.onnx": o.version for o in model.opset_import}
        self._types = {name: kind.tensor_type.elem_type for name, kind in types.items()}
        self._stored: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        for tensor in model.graph.initializer:
            self._types[tensor.name], self.shapes[tensor.name] = tensor.data_type, tuple(tensor.dims)
        self._new: set[str] = set()
        """Tensors of which more is known than onnx's inference of the whole graph found."""

    def visit(self, node: NodeProto) -> None:
        """Add what is known of the node's outputs."""
        if node.op_type == "Constant":
            self._keep_constant(node)
            return
        value = None
        with contextlib.suppress(Exception):  # a node that breaks its op's rules stays unknown
            if any(name in self._new for name in node.input):
                self._infer(node)
            value = self._value(node)
        if value is not None and value.values.size <= _LIMIT:
            self.values[node.output[0]] = value
            self._new.add(node.output[0])
            self._learn(node.output[0], tuple(value.values.shape), int(helper.np_dtype_to_tensor_dtype(value.values.dtype)))

    def _keep_constant(self, node: NodeProto) -> None:
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if tensor is not None:
            self._stored[node.output[0]] = tensor
            self._learn(node.output[0], tuple(tensor.dims), tensor.data_type)
            self._new.discard(node.output[0])

    def _learn(self, name: str, dims: Dims, kind: int) -> None:
        """Take a shape in, beside what is known of it."""
        before = self.shapes.get(name)
        if before is not None and len(before) == len(dims):
            dims = tuple(b if b is not None else d for b, d in zip(before, dims, strict=True))
        self._types[name] = self._types.get(name) or kind
        if dims != before:
            self.shapes[name] = dims
            self._new.add(name)

    # ---- shapes ----

    def _infer(self, node: NodeProto) -> None:
        """Infer the shapes of the node's outputs: by onnx's rule, or by sizes known in part."""
        if all(None not in self.shapes.get(name, (None,)) for name in node.output):
            return
        sized = self._sized(node)
        if sized is not None:
            self._learn(node.output[0], sized, 0)
            return
        given = [name for name in node.input if name]
        schema = onnx.defs.get_schema(node.op_type, self._version[node.domain or "ai.onnx"], node.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            {name: self._type(name) for name in given},
            {name: data for name in given if (data := self._data(name)) is not None},
            opset_imports=self._opsets,
        )
        for name, kind in found.items():
            if kind.tensor_type.HasField("shape"):
                self._learn(name, _dims(kind), kind.tensor_type.elem_type)

    def _type(self, name: str) -> TypeProto:
        return helper.make_tensor_type_proto(self._types[name], self.shapes.get(name))

    def _data(self, name: str) -> TensorProto | None:
        """Return the values of a tensor that are known in full, as onnx's rules take them."""
        if name in self._stored:
            return self._stored[name]
        known = self.values.get(name)
        return numpy_helper.from_array(np.asarray(known.values)) if known is not None and known.whole else None

    def _sized(self, node: NodeProto) -> Dims | None:
        """Return the output's shape of a node whose sizes are known in part, or None."""
        if node.domain not in ("", "ai.onnx") or not node.input:
            return None
        x = self.shapes.get(node.input[0])
        if node.op_type == "Slice" and x is not None:
            return self._sliced(node, x)
        place = _READ_SIZES.get(node.op_type)
        known = self.values.get(node.input[place]) if place is not None and place < len(node.input) else None
        if known is None or known.whole or x is None or _has_other_sizes(node):
            return None
        sizes = known.sizes()
        if node.op_type == "Expand":
            return _expanded(x, sizes)
        if node.op_type == "Tile":
            return tuple(None if d is None or n is None else d * n for d, n in zip(x, sizes, strict=True))
        if node.op_type == "Reshape" and not any(a.name == "allowzero" and a.i for a in node.attribute):
            # An unknown size may be 0, which copies the input's.
            return tuple(_reshaped(i, n, x) for i, n in enumerate(sizes))
        return tuple(None if n == -1 else n for n in sizes)

    def _sliced(self, node: NodeProto, x: Dims) -> Dims | None:
        names = [*node.input[1:], "", "", "", ""][:4]
        parts = [self._known(name) if name else None for name in names]
        if any(part is None for part, name in zip(parts, names, strict=True) if name) or None in parts[:2]:
            return None
        if all(part.whole for part in parts if part is not None):
            return None
        starts, ends, axes, steps = (None if part is None else part.sizes() for part in parts)
        assert starts is not None
        assert ends is not None
        axes = tuple(range(len(starts))) if axes is None else axes
        steps = (1,) * len(starts) if steps is None else steps
        dims = list(x)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            if axis is None:
                return None
            size = dims[axis]
            whole = None not in (start, end, step) and size is not None
            dims[axis] = len(range(size)[start:end:step]) if whole and size is not None else None
        return tuple(dims)

    # ---- values ----

    def _known(self, name: str) -> Known | None:
        if name in self.values:
            return self.values[name]
        tensor = self._stored.get(name)
        if tensor is None or math.prod(tensor.dims) > _LIMIT:
            return None
        return Known.stored(numpy_helper.to_array(tensor))

    def _value(self, node: NodeProto) -> Known | None:
        """Return the values of the node's only output, or None if they are not followed."""
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            return None
        if node.op_type in SHAPE_READERS:
            return self._shape(node)
        if not any(name in self.values for name in node.input):
            return None
        size = self.shapes.get(node.output[0])
        if size is None or None in size or math.prod(d or 0 for d in size) > _LIMIT:
            return None
        inputs = [self._known(name) for name in node.input if name]
        given = [known for known in inputs if known is not None]
        return _evaluated(node, given) if len(given) == len(inputs) else None

    def _shape(self, node: NodeProto) -> Known | None:
        dims = self.shapes.get(node.input[0])
        if dims is None:
            return None
        values = np.array([1 if d is None else d for d in dims], np.int64)
        doubt = np.array([_A_SIZE if d is None else _KNOWN for d in dims], np.int64)
        if node.op_type == "Size":
            return Known(values.prod(), doubt.max(initial=_KNOWN))
        ends = {a.name: a.i for a in node.attribute}
        part = slice(ends.get("start"), ends.get("end"))
        return Known(values[part], doubt[part])


def _has_other_sizes(node: NodeProto) -> bool:
    """Return whether the sizes are of some axes only, or a Resize makes others of them."""
    return any(a.name == "axes" or (a.name == "keep_aspect_ratio_policy" and a.s != b"stretch") for a in node.attribute)


def _evaluated(node: NodeProto, inputs: Sequence[Known]) -> Known | None:
    if node.op_type in _MOVES and all(known.whole for known in inputs[1:]):
        rest = [known.values for known in inputs[1:]]
        doubt = inputs[0].doubt if node.op_type == "Cast" else _run(node, [inputs[0].doubt, *rest])
        if node.op_type == "Cast" and not any(a.name == "to" and a.i in _WIDE for a in node.attribute):
            doubt = np.where(doubt == _A_SIZE, _UNKNOWN, doubt)  # a large size may come out below 0
        return Known(_run(node, [inputs[0].values, *rest]), doubt)
    if node.op_type == "Concat":
        return Known(_run(node, [k.values for k in inputs]), _run(node, [k.doubt for k in inputs]))
    if node.op_type == "Where":
        condition, one, other = inputs
        picked = np.where(condition.values, one.doubt, other.doubt)
        doubt = np.where(condition.doubt, _UNKNOWN, picked)
        return Known(_run(node, [k.values for k in inputs]), doubt)
    if node.op_type in SIZE_ARITHMETIC:
        return _arithmetic(node, inputs)
    if node.op_type in SIZES_FROM_KNOWN and all(known.whole for known in inputs):
        return Known.stored(_run(node, [known.values for known in inputs]))
    return None


def _arithmetic(node: NodeProto, inputs: Sequence[Known]) -> Known | None:
    """Evaluate an op of single elements.

    An unknown element makes the result's unknown, but for a size that is compared with what is
    below 0.
    """
    values = [known.values for known in inputs]
    if node.op_type in ("Div", "Mod") and any(v.dtype.kind == "i" and (v < 0).any() for v in values):
        return None  # the reference rounds down, runtimes towards 0
    if node.op_type in ("Div", "Mod") and not np.all(values[1]):
        return None
    result = _run(node, values)
    doubt = np.zeros(result.shape, np.int64)
    for known in inputs:
        doubt = np.maximum(doubt, known.doubt)
    from_zero = node.op_type in _KEEP_SIGN and all((known.values >= 0).all() for known in inputs)
    if not from_zero:
        doubt = np.where(doubt == _A_SIZE, _UNKNOWN, doubt)
    if node.op_type == "Equal":
        a, b = inputs
        never = ((a.doubt == _A_SIZE) & (b.doubt == _KNOWN) & (b.values < 0)) | (
            (b.doubt == _A_SIZE) & (a.doubt == _KNOWN) & (a.values < 0)
        )
        return Known(np.where(never, False, result), np.where(never, _KNOWN, doubt))
    return Known(result, doubt)


def _run(node: NodeProto, inputs: Iterable[Array]) -> Array:
    """Run one node in onnx's reference."""
    from onnx.reference import ReferenceEvaluator

    plain = NodeProto()
    plain.CopyFrom(node)
    places = [i for i, name in enumerate(node.input) if name]
    for i in places:
        plain.input[i] = f"i{i}"
    feed = {f"i{i}": np.asarray(values) for i, values in zip(places, inputs, strict=True)}
    (result,) = ReferenceEvaluator(plain).run(None, feed)
    return np.asarray(result)


def _expanded(x: Dims, sizes: Dims) -> Dims:
    rank = max(len(x), len(sizes))
    before: list[Dims] = [(1,) * (rank - len(dims)) + dims for dims in (x, sizes)]
    return tuple(_broadcast(d, n) for d, n in zip(*before, strict=True))


def _broadcast(d: int | None, n: int | None) -> int | None:
    """Return the size of an axis of two; one that is not known may be 1."""
    if d == 1 or n == 1:
        return n if d == 1 else d
    return d if d is not None else n


def _reshaped(axis: int, size: int | None, x: Dims) -> int | None:
    if size == 0:
        return x[axis]
    return None if size == -1 else size


def _dims(kind: TypeProto) -> Dims:
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.tensor_type.shape.dim)
