"""The shapes of a network's convolutions, as tables of costs have them."""

from __future__ import annotations

from torch import nn

from lccl.forms.costs import ConvShape
from lccl.forms.network_costs import gate_kind
from lccl.nn.conv import LCCLConv2d


def conv_shapes(network: nn.Module) -> dict[str, ConvShape]:
    """Return the shapes of a network's 2-D convolutions by name; grouped ones are left out."""
    found = {}
    for name, module in network.named_modules():
        conv = module.conv if isinstance(module, LCCLConv2d) else module
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
            continue
        kernel, strides, dilations = ((a, b) for a, b in (conv.kernel_size, conv.stride, conv.dilation))
        gate = _gate_of(module, kernel) if isinstance(module, LCCLConv2d) else ""
        found[name] = ConvShape(kernel, conv.in_channels, conv.out_channels, strides, dilations, gate)
    return found


def _gate_of(layer: LCCLConv2d, kernel: tuple[int, int]) -> str:
    if layer.gate is None:
        return "external"
    rows, columns = layer.gate.conv.kernel_size
    return gate_kind((rows, columns), kernel, layer.gate_size)
