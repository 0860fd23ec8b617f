"""Forms combined at random: whatever their combination, the graph is recognised and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lccl.graph.recognise import recognise
from lccl.op.onnx_op import register_schema
from support.graphs.models import op_types
from support.graphs.net import Net
from support.graphs.recognised_runs import require_equal

register_schema()
C, K = 4, 6

Unary = Callable[[Net, str], str]


def threshold(n: Net, x: str) -> str:
    return n.op("Where", n.op("LessOrEqual", x, n.const(0.2)), n.const(0), x)


BRANCH_ENDS: dict[str, Unary] = {
    "none": lambda n, x: x,
    "relu": lambda n, x: n.op("Relu", x),
    "leaky": lambda n, x: n.op("LeakyRelu", x, alpha=0.2),
    "clamp": lambda n, x: n.op("Clip", x, n.const(0)),
    "max": lambda n, x: n.op("Max", x, n.const(0)),
    "scaled relu": lambda n, x: n.op("Mul", n.op("Relu", x), n.const(0.5)),
}
GATE_ENDS: dict[str, Unary] = {
    "relu": lambda n, x: n.op("Relu", x),
    "clip": lambda n, x: n.op("Clip", x, n.const(0), n.const(0.7)),
    "hard tanh": lambda n, x: n.op("Max", n.op("Clip", x, n.const(-1), n.const(1)), n.const(0)),
    "hard sigmoid": lambda n, x: n.op("HardSigmoid", x, alpha=0.3, beta=0.1),
    "negated": lambda n, x: n.op("Relu", n.op("Sub", n.const(0.2), x)),
    "threshold": lambda n, x: n.op("Where", n.op("Greater", x, n.const(0.2)), x, n.const(0)),
    "threshold of a ReLU": lambda n, x: threshold(n, n.op("Relu", x)),
    "threshold, halved": lambda n, x: n.op("Div", threshold(n, n.op("Relu", x)), n.const(2)),
    "rounded": lambda n, x: n.op("Round", n.op("Clip", x, n.const(0), n.const(1))),
    "scaled": lambda n, x: n.op("Mul", n.op("Relu", n.op("Add", x, n.const(0.1))), n.const(0.25)),
}
VIEWS: dict[str, Unary] = {
    "none": lambda n, x: x,
    "expand": lambda n, x: n.op("Expand", x, n.ints(1, K, 1, 1)),
    "repeat": lambda n, x: n.op("Tile", x, n.ints(1, K, 1, 1)),
    "unsqueeze": lambda n, x: n.op("Unsqueeze", n.op("Squeeze", x, n.ints(1)), n.ints(1)),
    "slice": lambda n, x: n.op("Slice", x, n.ints(0), n.ints(1), n.ints(1)),
}
FOLLOWERS: dict[str, Callable[[Net, str, str], str]] = {
    "nothing": lambda n, y, r: y,
    "relu": lambda n, y, r: n.op("Relu", y),
    "norm": lambda n, y, r: n.bn(y, K),
    "norm, relu": lambda n, y, r: n.op("Relu", n.bn(y, K)),
    "add": lambda n, y, r: n.op("Add", r, y),
    "norm, add, relu": lambda n, y, r: n.op("Relu", n.op("Add", n.bn(y, K), r)),
    "leaky, norm": lambda n, y, r: n.bn(n.op("LeakyRelu", y, alpha=0.1), K),
    "add, norm": lambda n, y, r: n.bn(n.op("Add", r, y), K),
}


@dataclass(frozen=True)
class Form:
    """One choice of each part."""

    size: int
    gate_size: int
    stride: int
    dilation: int
    bias: bool
    norm: bool
    gate_norm: bool
    swapped: bool
    as_condition: bool
    view_first: bool
    dynamic: bool
    branch_end: str
    gate_end: str
    view: str
    follower: str
    fuse: bool

    def build(self) -> Any:
        net = Net(np.float32, seed=self.size * 7 + self.gate_size)
        x = net.input("x", ["N", C, "H", "W"] if self.dynamic else [2, C, 15, 18])
        same = {"stride": self.stride, "dilation": self.dilation, "bias": self.bias}
        u = net.conv(x, C, K, self.size, **same)
        u = BRANCH_ENDS[self.branch_end](net, net.bn(u, K) if self.norm else u)
        g = net.conv(x, C, 1, self.gate_size, **same, shift=0.1)
        g = net.bn(g, 1) if self.gate_norm else g
        parts = (VIEWS[self.view], GATE_ENDS[self.gate_end])
        for part in parts if self.view_first else parts[::-1]:
            g = part(net, g)
        if self.as_condition:
            choices = (net.const(0), u) if self.swapped else (u, net.const(0))
            y = net.op("Where", net.op("LessOrEqual" if self.swapped else "Greater", g, net.const(0)), *choices)
        else:
            y = net.op("Mul", *((g, u) if self.swapped else (u, g)))
        net.output(FOLLOWERS[self.follower](net, y, net.conv(x, C, K, 1, stride=self.stride)))
        return net.model()


FORMS = st.builds(
    Form,
    size=st.sampled_from([1, 3, 5]),
    gate_size=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    branch_end=st.sampled_from(sorted(BRANCH_ENDS)),
    gate_end=st.sampled_from(sorted(GATE_ENDS)),
    view=st.sampled_from(sorted(VIEWS)),
    follower=st.sampled_from(sorted(FOLLOWERS)),
)


@pytest.mark.slow
@settings(max_examples=160, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(form=FORMS)
def test_any_combination(form: Form) -> None:
    model = form.build()
    found = recognise(model, fuse=form.fuse)
    assert op_types(found.model).count("LCCLConv") == 1, found.near_misses
    assert found.layers[0].gates[0][1] == (0 if form.swapped or form.as_condition else 1)
    require_equal(model, found, seeds=1)


@pytest.mark.parametrize("follower", sorted(FOLLOWERS))
def test_without_fusion_what_follows_stays(follower: str) -> None:
    form = Form(3, 3, 1, 1, True, False, False, False, False, False, False, "none", "relu", "none", follower, False)
    kinds = op_types(recognise(form.build(), fuse=False).model)
    steps = [] if follower == "nothing" else follower.split(", ")
    ops = {"norm": "BatchNormalization", "relu": "Relu", "leaky": "LeakyRelu", "add": "Add"}
    assert sorted(kinds) == sorted(["LCCLConv", *(ops[s] for s in steps), *(["Conv"] if "add" in steps else [])])
