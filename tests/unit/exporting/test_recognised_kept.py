"""The check of an export keeps what recognition is right about: a layer that is put back for nothing is lost as well."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from lccl.console.progress import silent
from lccl.exporting.gate_search import GateSearchResult, NothingToGainError, find_layers
from lccl.exporting.onnx_source import OnnxSource
from lccl.files.external import weight_file
from lccl.files.protos import SMALL
from lccl.files.weights import WeightFile
from lccl.graph.inputs import input_types
from lccl.graph.recognise import recognise
from lccl.op.onnx_op import register_schema
from support.graphs.random_graphs import RandomGraph
from support.graphs.recognised import GRAPHS, Graph
from support.graphs.recognised_runs import SIZES

RANDOM = int(os.environ.get("LCCL_RANDOM_GRAPHS", "240"))
SENSITIVE = {618, 766}
"""Random graphs with a square root near 0 and with a jump of their own, which make any other order of sums visible."""


@pytest.fixture(autouse=True, scope="module")
def _schema() -> None:
    register_schema()


@pytest.mark.slow
@pytest.mark.parametrize("graph", [g for g in GRAPHS if g.layers], ids=lambda g: g.id)
@pytest.mark.parametrize("small", [SMALL, 20], ids=["weights in the model", "weights in a file"])
def test_named_graph(graph: Graph, small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph.model()
    count = len(recognise(model).layers)
    for module in ("files.protos", "files.weights", "graph.conversion"):
        monkeypatch.setattr(f"lccl.{module}.SMALL", small)
    with WeightFile(tmp_path / "m.onnx") as file:
        slim = file.externalize(model)
        assert (weight_file(slim) is file) == (small == 20)
        assert len(checked(slim).layers) == count


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(i, i + 40) for i in range(0, RANDOM, 40)], ids=lambda r: str(r[0]))
def test_random_graphs(seeds: range) -> None:
    models = [RandomGraph(seed).model() for seed in set(seeds) - SENSITIVE]
    for model in filter(runs, models):
        count = len(recognise(model).layers)
        assert not count or checked(model).layers


def runs(model: onnx.ModelProto) -> bool:
    """ONNX Runtime has no dilated convolution with ``auto_pad``."""
    for node in model.graph.node:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if "auto_pad" in values and max(values["dilations"]) > 1:
            return False
    return True


def checked(model: onnx.ModelProto) -> GateSearchResult:
    shapes = [
        [d.dim_value if d.HasField("dim_value") else SIZES[0][d.dim_param] for d in kind.shape.dim]
        for kind in input_types(model).values()
    ]
    source = OnnxSource(model, shapes)
    try:
        found = find_layers(model, source.feeds(model), None, True, silent)
    except NothingToGainError as error:
        raise AssertionError(error.near_misses) from None
    assert not [miss for miss in found.near_misses if "put back" in miss.reason]
    return found
