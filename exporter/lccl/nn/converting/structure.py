"""A network's convolutions as policies see them, and their blocks in the tree of modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

ConvRole = Literal["", "stem", "shortcut", "output", "pixel"]
"""A convolution's place in the network; see :attr:`ConvInfo.role`."""
_POOLS = (_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd)


@dataclass(frozen=True)
class ConvInfo:
    """One ``nn.Conv2d`` of a network, as a policy, or a caller's own function, sees it."""

    name: str
    """The name that ``named_modules`` gives it."""
    block: str
    """The name of its group of convolutions, such as a residual block or one resolution of a
    VGG."""
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    role: ConvRole = ""
    """"stem": it reads the network's input; "shortcut": it bypasses a block's longer path;
    "output": nothing with weights follows it; "pixel": its output is 1 x 1, for the example input
    or because it reads a mean of the map."""
    norm: str | None = None
    """The BatchNorm that would move into the gated layer, if there is one."""
    refusal: str | None = None
    """Why it cannot have a gate; None if it can."""
    macs: int | None = None
    """Multiply-accumulates per image; None without an example input."""
    gate_macs: int | None = None
    """Multiply-accumulates per image of its gate, if it had one; None without an example input."""
    dilation: tuple[int, int] = (1, 1)

    @property
    def spatial(self) -> bool:
        """Whether its kernel is larger than 1 x 1."""
        return max(self.kernel_size) > 1

    @property
    def kernel(self) -> str:
        """Its kernel size as text, such as "3x3"."""
        return f"{self.kernel_size[0]}x{self.kernel_size[1]}"


class Tree:
    """A network's modules by name; it finds the block of a convolution."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._convs: dict[str, list[nn.Conv2d]] = {}

    def convs_in(self, name: str) -> list[nn.Conv2d]:
        """Return the convolutions in a module, itself included, each once."""
        if name not in self._convs:
            self._convs[name] = [m for m in self._modules[name].modules() if isinstance(m, nn.Conv2d)]
        return self._convs[name]

    def block_of(self, name: str) -> str:
        """Return a convolution's block: the smallest module around it with several convolutions.

        A convolution next to whole blocks, or directly in a list of modules, is a block of its own.
        A plain sequence that pools or strides between its convolutions, as VGG's, is one block per
        resolution. In a network of torch.fx, where only names are left, a module without code
        counts as a module and numbered children as a sequence.
        """
        unit = name
        while unit:
            parent = unit.rpartition(".")[0]
            siblings = self._children(parent)
            if self._is_list(parent):
                return unit
            if any(self._is_block(sibling) for sibling in siblings if sibling != unit):
                return unit
            if len(self.convs_in(parent)) > 1:
                return self._part(parent, siblings[: siblings.index(unit)], unit)
            unit = parent
        return name

    def _children(self, name: str) -> list[str]:
        prefix = f"{name}." if name else ""
        return [prefix + child for child in self._modules[name]._modules if prefix + child in self._modules]

    def _is_list(self, name: str) -> bool:
        """Return whether the module is a list without code, such as ModuleList.

        Torch.fx's empty modules are not.
        """
        kind = type(self._modules[name])
        return kind.forward is nn.Module.forward and kind is not nn.Module

    def _is_sequence(self, name: str) -> bool:
        module = self._modules[name]
        numbered = all(child.isdecimal() for child in module._modules)
        return isinstance(module, nn.Sequential) or (
            numbered and (type(module) is nn.Module or isinstance(module, fx.GraphModule))
        )

    def _is_block(self, name: str) -> bool:
        """Return whether a module has several convolutions, one of them larger than 1 x 1.

        Squeeze-and-excitation, for example, has only 1 x 1 convolutions.
        """
        convs = self.convs_in(name)
        return len(convs) > 1 and any(max(conv.kernel_size) > 1 for conv in convs)

    def _part(self, parent: str, before: list[str], unit: str) -> str:
        """Return the block of a child of a sequence, by the changes of resolution before it."""
        name = parent or "(model)"
        if not self._is_sequence(parent):
            return name
        changes = sum(isinstance(self._modules[child], _POOLS) for child in before)
        changes += sum(any(max(conv.stride) > 1 for conv in self.convs_in(child)) for child in (*before, unit))
        return f"{name}, part {changes + 1}" if changes else name
