"""Files of our own in standard ops, decomposed or inlined: every layer comes back as the node that it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from torch import nn

import lccl
from lccl.graph.recognise import recognise
from lccl.graph.variants.canonical import canonical
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.runnable import runnable
from lccl.op.contract import Attributes
from lccl.op.onnx_op import is_lccl_node, node_attributes, register_schema
from support.cases.op_cases import CASES, Case
from support.graphs.models import case_model, run

register_schema()
FORMS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "decomposed": lambda model: inlined(canonical(model)),
    "inlined": onnx.inliner.inline_local_functions,
}
OUTSIDE = {
    "both": "the map that multiplies the fused gate may be below 0, so the two are one external gate",
    "threshold-external": "as both",
}
"""Cases whose gate comes back as an external one."""
COMPARED = [case for case in CASES if case.k > 1]


def plain(attributes: Attributes) -> dict[str, Any]:
    """The attributes as a file has them, in float32, without what a graph cannot tell."""
    values = {k: np.float32(v) if isinstance(v, float) else v for k, v in attributes.as_dict().items()}
    return {k: v for k, v in values.items() if k != "density"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_case(case: Case, dtype: Any, form: str) -> None:
    model, feed = case_model(case, dtype, dynamic=False)
    found = recognise(FORMS[form](model))
    (node,) = filter(is_lccl_node, found.model.graph.node)
    wanted = plain(case.attributes)
    if case.name in OUTSIDE:
        wanted = wanted | {"gate_source": "external"}
    assert plain(node_attributes(node)) == wanted
    if case.name not in OUTSIDE and case.gate != "external":
        assert [n.op_type for n in found.model.graph.node] == ["LCCLConv"], "nothing is left outside"
    expected, got = run(model, feed), run(runnable(found.model), feed)
    allowed = 2e-3 if case.name in OUTSIDE and dtype == np.float16 else 1e-6
    np.testing.assert_allclose(got, expected, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("case", [c for c in CASES if c.k == 1], ids=lambda case: case.name)
def test_a_layer_of_one_channel_is_refused(case: Case) -> None:
    (miss,) = recognise(FORMS["decomposed"](case_model(case, dynamic=False)[0])).near_misses
    assert "one output channel" in miss.reason


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        lccl.nn.LCCLConv2d(3, 6, 3, padding=1),
        lccl.nn.LCCLConv2d(6, 6, 3, padding=1, stride=2, gate="1x1"),
        lccl.nn.LCCLConv2d(6, 4, 3, padding=1, gate="grid", gate_size=2, gate_activation="binary"),
    ]
    return nn.Sequential(*layers).eval()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["decomposed", "inlined"])
@pytest.mark.parametrize("dynamic_hw", [False, True])
def test_an_export_of_an_export_has_the_same_layers(tmp_path: Path, form: str, dynamic_hw: bool) -> None:
    x = torch.randn(2, 3, 16, 24)
    first = lccl.export(network(), x, tmp_path / "a.onnx", decomposed=True, dynamic_hw=dynamic_hw)
    assert first.decomposed_path is not None
    again = first.decomposed_path
    if form == "inlined":
        again = tmp_path / "inlined.onnx"
        onnx.save(onnx.inliner.inline_local_functions(onnx.load(first.path)), again)
    second = lccl.export(again, x, tmp_path / "b.onnx")
    assert [layer.gate for layer in second.layers] == [layer.gate for layer in first.layers]
    assert second.recognised_open is not None, "its gates can be opened in the given graph"
    given, got = (onnx.load(path) for path in (first.path, second.path))
    pairs = zip(*([node_attributes(n) for n in m.graph.node if is_lccl_node(n)] for m in (given, got)), strict=True)
    assert all(plain(a) == plain(b) for a, b in pairs)
    feed: Mapping[str, Any] = {given.graph.input[0].name: np.random.default_rng(1).standard_normal((3, 3, 16, 24), np.float32)}
    np.testing.assert_allclose(run(got, feed), run(given, feed), rtol=1e-5, atol=1e-5)
