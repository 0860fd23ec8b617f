"""What was gated and how, as plain data: from a converted network into its checkpoint, and onto a dense network again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.errors import UserError
from lccl.nn.conv import GateKind, LCCLConv2d, Order
from lccl.nn.converting.flow import follow
from lccl.nn.gate import GateActivation, open_gate
from lccl.text import count


@dataclass(frozen=True)
class GateOptions:
    """How layers are gated: arguments of :class:`LCCLConv2d` under their names there."""

    gate: GateKind = "kxk"
    gate_size: int = 1
    gate_kernel_size: int | tuple[int, int] | None = None
    gate_activation: GateActivation = "relu"
    gate_norm: bool | None = None
    gate_threshold: float = 0.0
    order: Order = "paper"


@dataclass(frozen=True)
class LayerRecipe:
    """One converted convolution."""

    conv: str
    """Its name in the network."""
    norm: str | None
    """The BatchNorm that moved into the layer; an identity is in its place."""
    options: GateOptions

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint holds them."""
        values = asdict(self.options) | {"gate_size": int(self.options.gate_size)}
        kernel = self.options.gate_kernel_size
        if kernel is not None:
            values["gate_kernel_size"] = tuple(map(int, kernel)) if isinstance(kernel, Sequence) else int(kernel)
        return {"conv": self.conv, "norm": self.norm, **values}

    @classmethod
    def from_dict(cls, entry: Any) -> LayerRecipe:
        """Raises:
        UserError: no well-formed entry.
        """
        known = {f.name for f in fields(GateOptions)} | {"conv", "norm"}
        if not isinstance(entry, Mapping) or set(entry) != known:
            raise UserError(_MALFORMED)
        values = dict(entry)
        conv, norm = values.pop("conv"), values.pop("norm")
        kernel = values["gate_kernel_size"]
        values["gate_kernel_size"] = tuple(kernel) if isinstance(kernel, (list, tuple)) else kernel
        sound = (
            all(isinstance(text, str) for text in (conv, values["gate_activation"], values["order"]))
            and bool(conv)
            and (norm is None or (isinstance(norm, str) and bool(norm)))
            and values["gate"] in ("1x1", "kxk", "grid")
            and type(values["gate_size"]) is int
            and values["gate_size"] <= _LARGEST_GATE_SIZE
            and isinstance(values["gate_threshold"], (int, float))
            and (values["gate_norm"] is None or isinstance(values["gate_norm"], bool))
            and (kernel is None or type(kernel) is int or _all_whole(kernel))
        )
        if not sound:
            raise UserError(_MALFORMED)
        return cls(conv, norm, GateOptions(**values))


_LARGEST_GATE_SIZE = 2**15
"""More than any side of a feature map."""
_SAVE_AGAIN = "save the checkpoint again with lccl.save_checkpoint"
_MALFORMED = f"the recipe is not what lccl.nn.recipe(model) returns: {_SAVE_AGAIN}"


def _all_whole(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is int for value in values)


def layer_like(conv: nn.Conv2d, options: GateOptions) -> LCCLConv2d:
    """A gated layer of the convolution's geometry, with weights of its own and without norm or activation.

    Raises:
        UserError: the op cannot do this convolution, or the options do not go together.
    """
    padding: Any = conv.padding
    return LCCLConv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        0 if padding == "valid" else padding,
        (conv.dilation[0], conv.dilation[1]),
        **asdict(options),
        norm=False,
        activation=None,
        post_activation=None,
        bias=conv.bias is not None,
        groups=conv.groups,
        padding_mode=conv.padding_mode,
    )


def _gated(conv: nn.Conv2d, options: GateOptions) -> LCCLConv2d:
    """A gated layer over the convolution's own weights, its gate open, on its device and in its type."""
    layer = layer_like(conv, options)
    if layer.gate is not None:
        open_gate(layer.gate)
        layer.gate.to(conv.weight.device, conv.weight.dtype)
    layer.conv.weight, layer.conv.bias = conv.weight, conv.bias
    return layer.train(conv.training)


def gate_layers(model: nn.Module, entries: Sequence[LayerRecipe]) -> Callable[[], None]:
    """Puts gated layers in place of the recipe's convolutions, and identities in place of the norms that move into them.

    Either all of the recipe is carried out or, after an error, nothing.

    Returns:
        A function that puts the network back as it was.

    Raises:
        UserError: the network has no such layer, or it cannot be gated that way.
    """
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parent, _, child = name.rpartition(".")
        places.setdefault(module, []).append((model.get_submodule(parent), child))
    by_name = dict(model.named_modules(remove_duplicate=False))
    new: dict[nn.Module, nn.Module] = {}
    for entry in entries:
        conv = by_name.get(entry.conv)
        if isinstance(conv, LCCLConv2d) and conv.recipe == entry:
            continue  # the factory gives the converted network already
        norm = by_name.get(entry.norm) if entry.norm is not None else None
        if not isinstance(conv, nn.Conv2d) or (entry.norm is not None and not isinstance(norm, _BatchNorm)):
            missing = entry.norm if isinstance(conv, nn.Conv2d) else entry.conv
            what = "BatchNorm" if isinstance(conv, nn.Conv2d) else "convolution"
            raise UserError(f"the recipe gates {what} {missing}, which the network does not have; is it the right factory?")
        if conv in new or norm in new:
            raise UserError(f"the recipe gates {entry.conv} or moves {entry.norm} twice; {_SAVE_AGAIN}")
        if norm is not None and norm.num_features != conv.out_channels:
            raise UserError(
                f"the recipe moves {entry.norm}, of {count(norm.num_features, 'channel')}, behind {entry.conv}, which has "
                f"{conv.out_channels}: is it the right factory?"
            )
        layer = _gated(conv, entry.options)
        layer.recipe = entry
        if norm is not None:
            layer.norm = norm
            new[norm] = nn.Identity().train(norm.training)
        new[conv] = layer
    for module, replacement in new.items():
        for parent, child in places[module]:
            setattr(parent, child, replacement)

    def undo() -> None:
        for module in new:
            for parent, child in places[module]:
                setattr(parent, child, module)

    return undo


def recipe(model: nn.Module) -> list[dict[str, Any]]:
    """What :func:`lccl.nn.convert` gated in the network or in parts of it, as plain data; empty where it gated nothing.

    :func:`lccl.save_checkpoint` writes it by itself. A checkpoint of your own carries it under the key "lccl_recipe",
    where ``lccl-export`` and :func:`lccl.load_checkpoint` look for it. Thresholds that were changed after the conversion
    are in it.

    Raises:
        UserError: a converted layer that was moved to another name.
    """
    entries = []
    for name, layer in _unwrapped(model).named_modules():
        if isinstance(layer, LCCLConv2d) and layer.recipe is not None:
            entry = layer.recipe
            if not f".{name}".endswith(f".{entry.conv}"):
                raise UserError(f"layer {name} was {entry.conv} when it was converted: convert the network as it is now")
            prefix = name[: len(name) - len(entry.conv)]
            norm = prefix + entry.norm if entry.norm is not None else None
            options = asdict(entry.options) | {"gate_threshold": layer.gate_threshold}
            entries.append(LayerRecipe(name, norm, GateOptions(**options)).as_dict())
    return entries


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile, as a factory builds it."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def apply_recipe(model: nn.Module, data: Any) -> None:
    """Gates a dense network in place as a recipe says; load the converted network's weights afterwards.

    Args:
        data: what :func:`recipe` returned.

    Raises:
        UserError: no recipe, or one of another network; the network is then as it was.
    """
    if not isinstance(data, (list, tuple)):
        raise UserError(_MALFORMED)
    entries = [LayerRecipe.from_dict(entry) for entry in data]
    _require_own_norms(model, entries)
    gate_layers(model, entries)


def _require_own_norms(model: nn.Module, entries: Sequence[LayerRecipe]) -> None:
    """Refuses a norm that follows another convolution, as far as the network's code can be traced."""
    modules = dict(model.named_modules(remove_duplicate=False))
    pairs = [(e, modules.get(e.conv), modules[e.norm]) for e in entries if e.norm is not None and e.norm in modules]
    dense = [(entry, conv, norm) for entry, conv, norm in pairs if isinstance(conv, nn.Conv2d)]
    if not dense:
        return
    norms = follow(model).norms
    readers = {norm: conv for conv, norm in norms.items()}
    for entry, conv, norm in dense:
        if norms.get(conv, norm) is not norm or readers.get(norm, conv) is not conv:
            raise UserError(f"the recipe moves {entry.norm} behind {entry.conv}, which it does not follow; {_SAVE_AGAIN}")
