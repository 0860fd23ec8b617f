"""A recognised model against the given one on random inputs, in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from lccl.graph.recognise import Recognition
from lccl.graph.widen import widened
from lccl.run.onnxruntime import OnnxRuntimeRunner
from lccl.verify import check_model, input_types, runnable

SIZES = {"N": 3, "H": 20, "W": 28}
"""Of dynamic axes."""


def require_equal(given: onnx.ModelProto, found: Recognition, *, seeds: int = 2) -> None:
    """The outputs are equal to 1e-5 of their largest value, in lower precision to 2e-2; some gate is open and some closed."""
    check_model(found.model)
    low = any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in given.graph.initializer)
    first, second = (widened(runnable(m)) for m in (given, found.model))
    masks = {name for layer in found.found for name in layer.masks}
    with OnnxRuntimeRunner(first) as a, OnnxRuntimeRunner(second) as b:
        for seed in range(seeds):
            feed = random_feed(first, seed, masks)
            expected, got = a.infer(feed), b.infer(feed)
            assert list(expected) == list(got)
            for name, y in expected.items():
                scale = max(0.01, float(np.abs(y.astype(np.float64)).max()))
                error = np.abs(y.astype(np.float64) - got[name].astype(np.float64)).max() / scale
                assert error <= (2e-2 if low else 1e-5), f"{name}: {error}"
                assert np.abs(y.astype(np.float64)).max() > 1e-3, "an output of zeros proves nothing"


def random_feed(model: onnx.ModelProto, seed: int, masks: set[str]) -> dict[str, Any]:
    """Normal inputs; masks of them are at least 0."""
    rng = np.random.default_rng(seed)
    feed = {}
    for name, kind in input_types(model).items():
        shape = [d.dim_value if d.HasField("dim_value") else SIZES[d.dim_param] for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        values = rng.standard_normal(shape)
        if kind.elem_type == TensorProto.BOOL:
            values = values > 0
        elif name in masks:
            values = np.maximum(values, 0)
        feed[name] = values.astype(dtype)
    return feed
