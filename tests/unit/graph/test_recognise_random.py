"""Graphs that nobody thought of: whatever is recognised in them computes what it did, in the form that is written too.

More of them: ``LCCL_RANDOM_GRAPHS=10000 pytest tests/unit/graph/test_recognise_random.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import pytest

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.graph.checks import check_model
from lccl.graph.recognise import recognise
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.relaxed import has_hard_gates
from lccl.numerics import Array
from lccl.op.onnx_op import register_schema
from support.graphs.random_graphs import RandomGraph
from support.graphs.recognised_runs import SIZES, random_feed

GRAPHS = int(os.environ.get("LCCL_RANDOM_GRAPHS", "240"))
PART = 40
TOLERANCE = 1e-4
"""Of the largest value: layers in a row, BatchNorms folded in another order."""
EDGES = 0.02
"""Part of the values that may differ where a gate jumps: those whose logit is at the edge."""
Outputs = dict[str, Array]


@pytest.fixture(autouse=True, scope="module")
def _schema() -> None:
    register_schema()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, GRAPHS, PART))
def test_what_is_recognised_computes_what_it_did(first: int) -> None:
    assert sum(layers_held(seed) for seed in range(first, first + PART)) >= PART // 8, "too few layers to prove anything"


FAULTS: Mapping[str, Callable[..., object]] = {
    "lccl.graph.recognise.gates.lower_bound": lambda *_: 0.0,
    "lccl.graph.recognise.elementwise.norm_affine": lambda node: (
        np.ones(node.inputs[1].shape),
        np.zeros(node.inputs[1].shape),
    ),
}
"""A gate that may be negative passes; a norm of a gate is lost."""


@pytest.mark.slow
@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_is_found(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, FAULTS[place])
    with pytest.raises(AssertionError, match="differs"):
        sum(map(layers_held, range(GRAPHS)))


def layers_held(seed: int) -> int:
    """How many layers were recognised in the graph, fused and not; each computes what it did."""
    model = RandomGraph(seed).model()
    count = 0
    for fuse in (True, False):
        found = recognise(model, fuse=fuse)
        if not found.layers:
            break
        count += len(found.layers)
        masks = {name for layer in found.layers for name in layer.masks}
        check_model(found.model)
        rewritten = (found.model, canonical(found.model))
        edges = EDGES if has_hard_gates(rewritten[1]) else 0.0
        for feed, expected in outputs_where_it_runs(model, masks):
            for other in rewritten:
                require_like(expected, outputs(other, feed), edges, f"graph {seed}, fuse={fuse}")
    return count


def outputs_where_it_runs(model: onnx.ModelProto, masks: set[str]) -> Iterator[tuple[Mapping[str, Array], Outputs]]:
    """Of two sizes; the second is a multiple of nothing, which not every graph takes."""
    for seed, sizes in enumerate(SIZES):
        feed = random_feed(model, seed, masks, sizes)
        try:
            expected = outputs(model, feed)
        except UserError:
            continue
        yield feed, expected


def outputs(model: onnx.ModelProto, feed: Mapping[str, Array]) -> Outputs:
    with OnnxRuntimeRunner(model, optimize=False) as runner:
        return runner.infer({name: feed[name] for name in runner.input_names})


def require_like(expected: Outputs, got: Outputs, edges: float, where: str) -> None:
    for name, values in expected.items():
        assert got[name].shape == values.shape, f"{where}: the shape of {name} differs"
        error = np.abs(got[name].astype(np.float64) - values) / max(0.01, float(np.abs(values).max()))
        assert (error > TOLERANCE).mean() <= edges, f"{where}: {name} differs by {error.max():.1e}"
