"""A dense network -> a network with gated convolutions in place of some of its own, weights kept, gates open.

How a convolution is replaced, and what comes before and after it:

* The layer computes ``norm(conv(x)) * g`` (order "paper"), or ``norm(conv(x) * g)`` (order "released"). ``norm`` is the
  network's own BatchNorm, moved into the layer, where nothing else reads the convolution and the norm reads nothing else,
  in eval mode and in training mode; an identity takes its place. Any other norm stays where it is, after the gate.
* Activations, additions and whatever else follows stay where they are. For ReLU and LeakyReLU that is the paper's place
  of the gate: relu(a) * g = relu(a * g), since g >= 0.
* Gates start open: the gate's logits are 1 for every input (see :func:`lccl.nn.gate.open_gate`), so g = 1 in eval mode and
  in training mode, and the network computes what the dense one does in both. Training then moves them.
"""

from __future__ import annotations

from lccl.nn.converting.conversion import convert
from lccl.nn.converting.plan import ConversionPlan, PlannedLayer
from lccl.nn.converting.recipes import apply_recipe, recipe
from lccl.nn.converting.structure import ConvInfo

__all__ = ["ConvInfo", "ConversionPlan", "PlannedLayer", "apply_recipe", "convert", "recipe"]
