"""The time of each layer within its network, from ONNX Runtime's own profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.forms.timing import Setting

FOLLOWERS = frozenset({"Relu", "LeakyRelu", "Add", "Mul", "BatchNormalization", "Clip"})
"""Ops behind a convolution that belong to it: ONNX Runtime fuses most of them into it."""
RUNS = 20
_SUFFIX = "_kernel_time"
_BLOCKED = "_nchwc"
"""What ONNX Runtime adds to the name of the output of a convolution in its blocked layout, which is
the node's name then."""


@dataclass(frozen=True)
class LayerTimes:
    """Medians over the runs, in seconds."""

    layers: dict[str, float]
    """Of each convolution, gated or dense, by its name."""
    layout_changes: float
    """Of all nodes that only change a layout."""
    count_of_layout_changes: int
    others: float


def layer_times(model: onnx.ModelProto, setting: Setting) -> LayerTimes:
    """Run the model under ONNX Runtime's profiler.

    Args:
        model: a canonical model, a form of it, or its dense twin, whose convolutions have names.
        setting: inputs, threads, library.
    """
    owners = owners_of(model)
    times: dict[str, list[float]] = defaultdict(list)
    ops: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="lccl-") as folder:
        runner = OnnxRuntimeRunner(model, setting.threads, library=setting.library, profile=Path(folder) / "times")
        with runner:
            for i in range(RUNS):
                runner.infer(setting.feeds[i % len(setting.feeds)])
            events = json.loads(Path(runner.end_profile()).read_text())
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            times[name].append(event["dur"] / 1e6)
            ops[name] = event["args"].get("op_name", "")
    layers: dict[str, float] = defaultdict(float)
    layouts, count, others = 0.0, 0, 0.0
    for name, seconds in times.items():
        median = float(np.median(seconds))
        owner = owners.get(name.removesuffix(_BLOCKED))
        if owner is not None:
            layers[owner] += median
        elif ops[name] in ("ReorderInput", "ReorderOutput", "Transpose"):
            layouts, count = layouts + median, count + 1
        else:
            others += median
    return LayerTimes(dict(layers), layouts, count, others)


def owners_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the layer that each node belongs to, by the node's name and by that of its output.

    A node "layer/part" belongs to the layer, and so does what follows a convolution up to the next
    tensor that several nodes read.
    """
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    owners: dict[str, str] = {}
    for node in model.graph.node:
        layer, _, part = node.name.rpartition("/")
        if part and layer:
            owners[node.name] = owners[node.output[0]] = layer
        elif node.op_type in ("Conv", "LCCLConv"):
            owners[node.name] = owners[node.output[0]] = node.name
            _own_followers(node, readers, owners)
    return owners


def _own_followers(conv: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], owners: dict[str, str]) -> None:
    output = conv.output[0]
    while len(readers[output]) == 1 and readers[output][0].op_type in FOLLOWERS and readers[output][0].output[0] not in owners:
        node = readers[output][0]
        output = node.output[0]
        owners[node.name] = owners[output] = conv.name
