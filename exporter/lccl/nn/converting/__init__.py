"""Conversion of a dense network: gated layers replace some convolutions and keep their weights.

How a convolution is replaced:

* The layer computes ``norm(conv(x)) * g`` (order "paper") or ``norm(conv(x) * g)`` (order
  "released"). ``norm`` is the network's own BatchNorm. It moves into the layer, and an identity
  takes its place, if in eval mode and in training mode only the norm reads the convolution and the
  norm reads nothing else. Any other norm stays where it is, after the gate.
* Activations, additions and all other operations stay where they are. For ReLU and LeakyReLU this
  is equivalent to the paper's place of the gate: relu(a) * g = relu(a * g), since g >= 0.
* Gates start open: the logits are 1 for every input (see :func:`lccl.nn.gate.open_gate`), so g = 1
  and the network computes what the dense one does, in eval mode and in training mode. Training then
  moves the gates.
"""

from __future__ import annotations

from lccl.nn.converting.conversion import convert
from lccl.nn.converting.plan import ConversionPlan, PlannedLayer
from lccl.nn.converting.recipes import apply_recipe, recipe
from lccl.nn.converting.structure import ConvInfo

__all__ = ["ConvInfo", "ConversionPlan", "PlannedLayer", "apply_recipe", "convert", "recipe"]
