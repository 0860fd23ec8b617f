"""A recognised model against the given one on random inputs, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from lccl.backends.onnxruntime.runner import OnnxRuntimeRunner
from lccl.errors import UserError
from lccl.graph.checks import check_model
from lccl.graph.inputs import input_types
from lccl.graph.recognise import Recognition
from lccl.graph.variants.runnable import runnable
from lccl.graph.variants.upcast import upcast

SIZES = ({"N": 3, "H": 20, "W": 28, "h": 10, "w": 14}, {"N": 1, "H": 33, "W": 45, "h": 7, "w": 9})
"""Of dynamic axes; the second are multiples of nothing that a network divides them by."""


def require_equal(given: onnx.ModelProto, found: Recognition, *, seeds: int = 2) -> None:
    """The outputs are equal to 1e-5 of their largest value, in lower precision to 2e-2; some gate is open and some closed."""
    check_model(found.model)
    low = any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in given.graph.initializer)
    first, second = (upcast(runnable(m)) for m in (given, found.model))
    masks = {name for layer in found.layers for name in layer.masks}
    with OnnxRuntimeRunner(first) as a, OnnxRuntimeRunner(second) as b:
        for seed in range(seeds):
            feed = random_feed(first, seed, masks, SIZES[seed % 2])
            try:
                expected = a.infer(feed)
            except UserError:
                assert seed % 2, "only sizes that are multiples of nothing may be more than the given network takes"
                continue
            got = b.infer(feed)
            assert list(expected) == list(got)
            for name, y in expected.items():
                scale = max(0.01, float(np.abs(y.astype(np.float64)).max()))
                error = np.abs(y.astype(np.float64) - got[name].astype(np.float64)).max() / scale
                assert error <= (2e-2 if low else 1e-5), f"{name}: {error}"
                assert np.abs(y.astype(np.float64)).max() > 1e-3, "an output of zeros proves nothing"


def random_feed(model: onnx.ModelProto, seed: int, masks: set[str], sizes: Mapping[str, int] = SIZES[0]) -> dict[str, Any]:
    """Normal inputs; masks of them are at least 0.

    Args:
        sizes: of dynamic axes.
    """
    rng = np.random.default_rng(seed)
    feed = {}
    for name, kind in input_types(model).items():
        shape = [d.dim_value if d.HasField("dim_value") else sizes[d.dim_param] for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        values = rng.standard_normal(shape)
        if kind.elem_type == TensorProto.BOOL:
            values = values > 0
        elif name in masks:
            values = np.maximum(values, 0)
        feed[name] = values.astype(dtype)
    return feed
