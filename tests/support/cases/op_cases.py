"""The named cases that every implementation of the op is held to, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lccl.op.contract import BINARY_SLOPE, FLT_MAX, INPUT_NAMES, Attributes, conv_hw, gate_pads, grid_hw

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One node: its geometry, its form, and what its inputs look like."""

    name: str
    why: str
    n: int = 1
    c: int = 8
    k: int = 6
    hw: tuple[int, int] = (9, 11)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    gate: str = "1x1"
    """"1x1", "kxk", "grid" (its window covers the block), "external", or "both" (fused and
    external)."""
    grid: int = 1
    activation_alpha: float = 1.0
    gate_slope: float = 1.0
    gate_max: float = FLT_MAX
    gate_threshold: float = 0.0
    post: bool = False
    residual: bool = False
    post_alpha: float = 1.0
    fill: str = "random"
    """"random", "all-off", "all-on", "one-pixel", or "nan" (NaN where only inactive pixels
    look)."""

    @property
    def attributes(self) -> Attributes:
        gate_kernel, gate_dilations = self.gate_kernel
        pads = gate_pads(
            self.kernel, self.pads, self.dilations, self.strides, gate_kernel, self.grid, gate_dilations=gate_dilations
        )
        return Attributes(
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
            gate_strides=(self.strides[0] * self.grid, self.strides[1] * self.grid),
            gate_pads=pads,
            gate_dilations=gate_dilations,
            activation_alpha=self.activation_alpha,
            gate_slope=self.gate_slope,
            gate_max=self.gate_max,
            gate_threshold=self.gate_threshold,
            gate_upsample=(1, 1, self.grid, self.grid),
            post_alpha=self.post_alpha,
            gate_source="external" if self.gate == "external" else "fused",
            density=0.5,
        )

    @property
    def gate_kernel(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Kernel and dilations of the gate's convolution."""
        if self.gate == "kxk" or (self.gate == "external" and not any(self.pads)):
            return self.kernel, self.dilations
        if self.gate == "grid":
            return (self.strides[0] * self.grid, self.strides[1] * self.grid), (1, 1)
        return (1, 1), (1, 1)

    def inputs(self, dtype: Any = np.float32) -> dict[str, Array]:
        """The nine inputs, T = ``dtype``; the same for every run."""
        rng = np.random.default_rng(sum(map(ord, self.name)))
        n, c, k = self.n, self.c, self.k
        ho, wo = conv_hw(self.hw, self.kernel, self.strides, self.pads, self.dilations)
        hg, wg = grid_hw((ho, wo), self.grid)
        (rg, sg), _ = self.gate_kernel
        external = self.gate in ("external", "both")
        values = {
            "X": rng.standard_normal((n, c, *self.hw)),
            "W": rng.standard_normal((k, *self.kernel, c)) / np.sqrt(c * self.kernel[0] * self.kernel[1]),
            "B": rng.standard_normal(k),
            "gate_W": rng.standard_normal((1, rg, sg, c)) / np.sqrt(c * rg * sg),
            "gate_B": np.full(1, 0.1),
            "gate": np.maximum(rng.standard_normal((n, 1, hg, wg)), 0) if external else np.ones((1, 1, 1, 1)),
            "post_scale": rng.random(k) + 0.5 if self.post else np.ones(1),
            "post_bias": rng.standard_normal(k) if self.post else np.zeros(1),
            "residual": rng.standard_normal((n, k, ho, wo)) if self.residual else np.zeros((1, 1, 1, 1)),
        }
        if self.gate == "external":
            values["gate_W"], values["gate_B"] = np.zeros((1, rg, sg, c)), np.ones(1)
        _fill(self, values, external)
        wide = ("B", "gate_B", "post_scale", "post_bias")
        return {name: values[name].astype(np.float32 if name in wide else dtype) for name in INPUT_NAMES}


def _fill(case: Case, values: dict[str, Array], external: bool) -> None:
    gate = values["gate"]
    if case.fill == "all-off":
        values["gate_B"][:] = -100
        gate[:] = 0 if external else 1
    elif case.fill == "all-on":
        values["gate_B"][:] = 100 if case.gate != "external" else 1
        gate[:] = np.abs(gate) + 0.5 if external else 1
    elif case.fill == "one-pixel":
        gate[:] = 0
        gate[0, 0, gate.shape[2] // 2, gate.shape[3] // 2] = 0.75
    elif case.fill == "nan":
        values["X"][0, 1, 0, :] = np.nan
        if external:
            gate[:, :, : 1 + 3 // case.grid] = 0


CASES = (
    Case("plain", "the smallest form: 1x1 gate, nothing else"),
    Case("paper", "relu(bn(conv)) * relu(bn(gate)) with a k x k gate, batch 2", n=2, gate="kxk", activation_alpha=0.0),
    Case("released", "conv * gate, then BN and ReLU", post=True, post_alpha=0.0),
    Case("leaky", "LeakyReLU before the product and after it", activation_alpha=0.1, post_alpha=0.2, residual=True),
    Case("residual", "the second convolution of a residual block", n=2, gate="kxk", residual=True, post_alpha=0.0),
    Case(
        "everything",
        "post affine, residual, both activations, batch 3",
        n=3,
        post=True,
        residual=True,
        activation_alpha=0.0,
        post_alpha=0.0,
    ),
    Case("stride-2", "downsampling, odd sizes", strides=(2, 2), gate="kxk"),
    Case("stride-2-1x1", "a 1x1 gate must fall on the strided pixels", strides=(2, 2), hw=(10, 13)),
    Case("stride-uneven", "another stride along each axis", strides=(2, 3), gate="kxk", hw=(12, 14)),
    Case("dilated", "dilation 2, k x k gate dilated too", dilations=(2, 2), pads=(2, 2, 2, 2), gate="kxk"),
    Case("dilated-uneven", "dilations differ, 1x1 gate", dilations=(1, 3), pads=(1, 3, 1, 3)),
    Case("pads-uneven", "asymmetric pads, top left bottom right all different", pads=(0, 1, 2, 3), gate="kxk"),
    Case("pads-uneven-1x1", "a 1x1 gate under asymmetric pads", pads=(1, 2, 3, 1)),
    Case("unpadded", "a valid convolution", pads=(0, 0, 0, 0), gate="kxk"),
    Case("kernel-1", "pointwise convolution", kernel=(1, 1), pads=(0, 0, 0, 0)),
    Case("kernel-5x3", "kernel not square", kernel=(5, 3), pads=(2, 1, 2, 1), gate="kxk"),
    Case("kernel-7-stride-2", "a stem", kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3), gate="kxk", hw=(20, 17), c=3),
    Case("kernel-even", "even kernel, asymmetric same padding", kernel=(4, 4), pads=(1, 1, 2, 2)),
    Case("one-channel", "C = 1 and K = 1", c=1, k=1, gate="kxk"),
    Case("one-channel-post", "K = 1: an affine of one element is not neutral", c=3, k=1, post=True),
    Case("odd-channels", "C and K of no alignment", c=13, k=17),
    Case("one-pixel-map", "an output of 1 x 1", hw=(3, 3), pads=(0, 0, 0, 0), gate="kxk"),
    Case("grid-2", "a gate value per 2 x 2 block, odd map", gate="grid", grid=2),
    Case("grid-4", "blocks larger than what is left at the border", gate="grid", grid=4, hw=(10, 7)),
    Case("grid-3-stride-2", "grid and stride together", gate="grid", grid=3, strides=(2, 2), hw=(15, 17), activation_alpha=0.0),
    Case("grid-16", "one block larger than the map", gate="grid", grid=16),
    Case("grid-external", "an external map on a grid", gate="external", grid=4),
    Case("external", "an attention map or region of interest", n=2, gate="external"),
    Case("external-unpadded", "an external map over a valid convolution", gate="external", pads=(0, 0, 0, 0)),
    Case("external-strided", "an external map over a strided one", gate="external", strides=(2, 2)),
    Case("both", "own gate times an external one", n=2, gate="both"),
    Case("hardtanh", "a gate bounded by 1", gate_max=1.0),
    Case("binary", "a hard mask", gate_slope=BINARY_SLOPE, gate_max=1.0),
    Case("threshold", "the deploy-time knob", gate_threshold=0.4),
    Case("threshold-external", "the knob on a product of gates", gate="both", gate_threshold=0.3, n=2),
    Case("all-off", "no pixel is computed", fill="all-off", post=True, residual=True),
    Case("all-off-external", "an external map of zeros", gate="external", fill="all-off"),
    Case("all-on", "every pixel is computed", fill="all-on", gate="kxk", activation_alpha=0.0),
    Case("one-pixel", "a single active pixel", gate="external", fill="one-pixel", n=2),
    Case("one-block", "a single active block", gate="external", grid=4, fill="one-pixel", hw=(16, 16)),
    Case("nan-kxk", "NaN where only inactive pixels look: a NaN gate is not active", gate="kxk", fill="nan"),
    Case("nan-external", "NaN under a closed external map", gate="external", fill="nan"),
    Case("nan-grid", "NaN under closed blocks", gate="external", grid=2, fill="nan", hw=(12, 12)),
)
