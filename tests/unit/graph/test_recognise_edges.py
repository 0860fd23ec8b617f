"""Conditions at their very edge: logits that are exactly the number that they are compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lccl.graph.recognise import recognise
from lccl.op.onnx_op import register_schema
from support.graphs.models import run
from support.graphs.net import Net
from support.graphs.recognised.conditions import kept
from support.graphs.recognised.parts import clip, compared

register_schema()
EDGE = 0.5
OPS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def logit(net: Net, x: str) -> str:
    """The first channel as it is."""
    return net.op("Conv", x, net.const([[[[1]], [[0]]]]))


def rounded(net: Net, x: str) -> str:
    return net.op("Round", clip(net, logit(net, x), 0, 1))


FORMS: dict[str, Callable[[Net, str], str]] = {
    **{f"threshold, {op}": kept(op, EDGE, logit) for op in OPS},
    **{f"threshold at 0, {op}": kept(op, 0, logit) for op in OPS},
    **{f"mask, {op}": lambda n, x, op=op: compared(n, logit(n, x), op, EDGE) for op in OPS},
    **{f"mask at 0, {op}": lambda n, x, op=op: compared(n, logit(n, x), op, 0) for op in OPS},
    **{f"inverted mask, {op}": lambda n, x, op=op: n.op("Sub", n.const(1), compared(n, logit(n, x), op, EDGE)) for op in OPS},
    "rounded": rounded,
    "1 - rounded": lambda n, x: n.op("Sub", n.const(1), rounded(n, x)),
    "mask of a threshold": lambda n, x: compared(n, kept("Greater", EDGE, logit)(n, x), "Greater", 0.25),
    "threshold, then less": lambda n, x: n.op("Relu", n.op("Sub", kept("Greater", EDGE, logit)(n, x), n.const(0.75))),
}


@pytest.mark.parametrize("form", FORMS)
def test_at_the_edge(form: str) -> None:
    net = Net()
    x = net.input("x", [1, 2, 5, 5])
    net.op("Mul", net.conv(x, 2, 3), FORMS[form](net, x))
    model = net.model()
    values = np.linspace(-1.5, 1.5, 25, dtype=np.float32)
    values[:13] = np.arange(-6, 7) / 4
    near = np.nextafter(np.float32(EDGE), np.array([-1, 1], np.float32))
    values[13:15] = near
    feed = {"x": np.stack([values, np.ones(25, np.float32)]).reshape(1, 2, 5, 5)}
    found = recognise(model)
    assert len(found.layers) == 1, found.near_misses
    np.testing.assert_allclose(run(found.model, feed), run(model, feed), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", OPS)
def test_a_where_as_the_product_at_its_edge(op: str) -> None:
    for swapped in (False, True):
        net = Net()
        x = net.input("x", [1, 2, 4, 4])
        choices = [net.conv(x, 2, 3), net.const(0)]
        net.op("Where", net.op(op, logit(net, x), net.const(EDGE)), *(choices[::-1] if swapped else choices))
        model = net.model()
        values = np.stack([np.arange(16, dtype=np.float32) % 4 / 4, np.ones(16, np.float32)]).reshape(1, 2, 4, 4)
        found = recognise(model)
        assert len(found.layers) == 1, found.near_misses
        np.testing.assert_allclose(run(found.model, {"x": values}), run(model, {"x": values}), rtol=1e-5, atol=1e-6)
