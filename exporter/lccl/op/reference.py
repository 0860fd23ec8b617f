"""The reference implementation of ``lccl::LCCLConv``, in NumPy and float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from lccl.op.contract import ATTRIBUTES, DOMAIN, INPUT_NAMES, OP_TYPE, Attributes, output_shape


def _conv(
    x: NDArray[Any], w: NDArray[Any], b: NDArray[Any], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> NDArray[Any]:
    """Convolve x [N, C, H, W] with w [K, R, S, C] and b [K], tap by tap, to [N, K, Ho, Wo]."""
    k, r, s, _ = w.shape
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    ho = (x.shape[2] - dilations[0] * (r - 1) - 1) // strides[0] + 1
    wo = (x.shape[3] - dilations[1] * (s - 1) - 1) // strides[1] + 1
    y = np.broadcast_to(b[None, :, None, None], (x.shape[0], k, ho, wo)).copy()
    for i in range(r):
        for j in range(s):
            i0, j0 = i * dilations[0], j * dilations[1]
            taps = x[:, :, i0 : i0 + (ho - 1) * strides[0] + 1 : strides[0], j0 : j0 + (wo - 1) * strides[1] + 1 : strides[1]]
            y += np.einsum("nchw,kc->nkhw", taps, w[:, i, j])
    return y


def _leaky(x: NDArray[Any], alpha: float) -> NDArray[Any]:
    return np.where(x > 0, x, alpha * x)


def lccl_gate(inputs: dict[str, NDArray[Any]], attributes: Attributes) -> NDArray[Any]:
    """Compute the gate map g at every output pixel, [N, 1, Ho, Wo] in float64.

    Args:
        inputs: the op's nine inputs under their contract names.
        attributes: the node's attributes.

    Raises:
        ContractError: shapes that version 1 does not allow.
    """
    a = attributes
    x, gate_w, gate_b, gate = (np.asarray(inputs[n], np.float64) for n in ("X", "gate_W", "gate_B", "gate"))
    n, _, ho, wo = output_shape({name: np.shape(inputs[name]) for name in INPUT_NAMES}, a)
    with np.errstate(invalid="ignore", over="ignore"):
        logit = _conv(x, gate_w, gate_b, a.gate_strides, a.gate_pads, a.gate_dilations)
        gmap = np.minimum(np.maximum(a.gate_slope * logit, 0), a.gate_max) * gate
        gmap = np.where(gmap > a.gate_threshold, gmap, 0)
    g = gmap.repeat(a.grid, axis=2).repeat(a.grid, axis=3)[:, :, :ho, :wo]
    return np.broadcast_to(g, (n, 1, ho, wo))


def lccl_conv(inputs: dict[str, NDArray[Any]], attributes: Attributes) -> NDArray[Any]:
    """Compute Y of the op, [N, K, Ho, Wo] in float64.

    Args:
        inputs: the op's nine inputs under their contract names, of any float type.
        attributes: the node's attributes.

    Raises:
        ContractError: shapes that version 1 does not allow.
    """
    a = attributes
    output_shape({name: np.shape(inputs[name]) for name in INPUT_NAMES}, a)
    x, w, b, _, _, _, post_scale, post_bias, residual = (np.asarray(inputs[n], np.float64) for n in INPUT_NAMES)
    g = lccl_gate(inputs, a)
    with np.errstate(invalid="ignore", over="ignore"):
        u = _leaky(_conv(x, w, b, a.strides, a.pads, a.dilations), a.activation_alpha)
        v = np.where(g > 0, u * g, 0)
        y = v * post_scale[None, :, None, None] + post_bias[None, :, None, None] + residual
        return _leaky(y, a.post_alpha)


class LCCLConv(OpRun):
    """The op for ``onnx.reference.ReferenceEvaluator(model, new_ops=[LCCLConv])``.

    It computes in float64.
    """

    op_domain = DOMAIN

    def _run(self, *inputs: NDArray[Any], **attributes: Any) -> tuple[NDArray[Any]]:
        given = {spec.name: attributes[spec.name] for spec in ATTRIBUTES if attributes.get(spec.name) is not None}
        y = lccl_conv(dict(zip(INPUT_NAMES, inputs, strict=True)), Attributes.from_mapping(given))
        return (y.astype(inputs[0].dtype),)


assert LCCLConv.__name__ == OP_TYPE
