"""Recipes: what a conversion gated, as plain data that a dense network is gated by again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lccl.console.text import count
from lccl.errors import UserError
from lccl.errors.arguments import MODULE, takes
from lccl.nn.conv import GateKind, LCCLConv2d, Order
from lccl.nn.converting.trace import trace
from lccl.nn.gate import GateActivation, open_gate
from lccl.torch_calls import plain_name, unwrapped

RecipeEntry = dict[str, object]
"""One gated layer as plain values: names, numbers, booleans and tuples of numbers."""


@dataclass(frozen=True)
class GateOptions:
    """How layers are gated: arguments of :class:`LCCLConv2d`, under the same names."""

    gate: GateKind = "kxk"
    gate_size: int = 1
    gate_kernel_size: int | tuple[int, int] | None = None
    gate_activation: GateActivation = "relu"
    gate_norm: bool | None = None
    gate_threshold: float = 0.0
    order: Order = "paper"


@dataclass(frozen=True)
class LayerRecipe:
    """One gated convolution of a recipe."""

    conv: str
    """The convolution's name in the network."""
    norm: str | None
    """The name of the BatchNorm that moved into the layer, whose place an identity takes; None if
    none did."""
    options: GateOptions

    def as_dict(self) -> RecipeEntry:
        """Return the entry as plain values, as a checkpoint holds it."""
        values: RecipeEntry = asdict(self.options) | {"gate_size": int(self.options.gate_size)}
        kernel = self.options.gate_kernel_size
        if kernel is not None:
            values["gate_kernel_size"] = tuple(map(int, kernel)) if isinstance(kernel, Sequence) else int(kernel)
        return {"conv": self.conv, "norm": self.norm, **values}

    @classmethod
    def from_dict(cls, entry: object) -> LayerRecipe:
        """Read an entry from plain values.

        Raises:
            UserError: the entry is malformed.
        """
        known = {f.name for f in fields(GateOptions)} | {"conv", "norm"}
        if not isinstance(entry, Mapping) or set(entry) != known:
            raise UserError(_MALFORMED)
        values: dict[str, Any] = dict(entry)
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
"""An upper bound on ``gate_size``, larger than any side of a feature map."""
_SAVE_AGAIN = "save the checkpoint again with lccl.save_checkpoint"
_MALFORMED = f"the recipe is not what lccl.nn.recipe(model) returns: {_SAVE_AGAIN}"


def _all_whole(values: object) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is int for value in values)


def layer_like(conv: nn.Conv2d, options: GateOptions) -> LCCLConv2d:
    """Build a gated layer of a convolution's geometry, with new weights and no norm.

    Raises:
        UserError: the op does not support this convolution, or the options do not go together.
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


def _gated(conv: nn.Conv2d, norm: _BatchNorm | None, options: GateOptions, synced: nn.SyncBatchNorm | None) -> LCCLConv2d:
    """Build a gated layer with an open gate on the convolution's own weights, device and type.

    Args:
        conv: the convolution.
        norm: the norm that moves into the layer, with its mode.
        options: the gate's options.
        synced: a norm whose processes the gate's norm shares its statistics with, if any.
    """
    layer = layer_like(conv, options)
    if layer.gate is not None:
        open_gate(layer.gate)
        layer.gate.to(conv.weight.device, conv.weight.dtype)
        if synced is not None:
            nn.SyncBatchNorm.convert_sync_batchnorm(layer.gate, synced.process_group)  # type: ignore[no-untyped-call]
    layer.train(conv.training or (norm is not None and norm.training))
    layer.conv.weight, layer.conv.bias = conv.weight, conv.bias
    layer.conv.training = conv.training
    if norm is not None:
        layer.norm = norm  # type: ignore[assignment]
    return layer


def gate_layers(model: nn.Module, entries: Sequence[LayerRecipe]) -> Callable[[], None]:
    """Replace a recipe's convolutions by gated layers, and norms that move in by identities.

    Modules keep their modes. A layer is in training mode if its convolution or its norm is.
    After an error, nothing has changed.

    Returns:
        A function that restores the network.

    Raises:
        UserError: the network lacks a layer of the recipe, or a layer cannot be gated that way.
    """
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parent, _, child = name.rpartition(".")
        places.setdefault(module, []).append((model.get_submodule(parent), child))
    by_name = dict(model.named_modules(remove_duplicate=False))
    synced = next((module for module in places if isinstance(module, nn.SyncBatchNorm)), None)
    new: dict[nn.Module, nn.Module] = {}
    for entry in entries:
        conv = by_name.get(entry.conv)
        if isinstance(conv, LCCLConv2d) and conv.recipe == entry:
            continue  # the factory builds the converted network already
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
        layer = _gated(conv, norm, entry.options, norm if isinstance(norm, nn.SyncBatchNorm) else synced)
        layer.recipe = entry
        if norm is not None:
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


@takes(model=MODULE)
def recipe(model: nn.Module) -> list[RecipeEntry]:
    """Describe, as plain data, what :func:`lccl.nn.convert` gated in a network or in parts of it.

    :func:`lccl.save_checkpoint` stores the recipe by itself. In a checkpoint of your own, store it
    under the key "lccl_recipe", where ``lccl-export`` and :func:`lccl.load_checkpoint` look for it.
    Thresholds that changed after the conversion are included.

    Returns:
        One entry per gated layer; empty if :func:`lccl.nn.convert` gated nothing.

    Raises:
        UserError: a gated layer has another name than when it was converted.
    """
    entries = []
    network = unwrapped(model)
    for path, layer in network.named_modules():
        if isinstance(layer, LCCLConv2d) and layer.recipe is not None:
            entry = cast(LayerRecipe, layer.recipe)
            kept = f".{path}".endswith(f".{entry.conv}")
            name = path if kept else plain_name(network, path)  # a part may have been wrapped since
            if not f".{name}".endswith(f".{entry.conv}"):
                raise UserError(f"layer {name} was {entry.conv} when it was converted: convert the network as it is now")
            prefix = name[: len(name) - len(entry.conv)]
            norm = prefix + entry.norm if entry.norm is not None else None
            options = asdict(entry.options) | {"gate_threshold": layer.gate_threshold}
            entries.append(LayerRecipe(name, norm, GateOptions(**options)).as_dict())
    return entries


@takes(model=MODULE)
def apply_recipe(model: nn.Module, data: object) -> None:
    """Gate a dense network in place as a recipe says.

    Load the converted network's weights afterwards.

    Args:
        model: the dense network.
        data: the list that :func:`recipe` returned.

    Raises:
        UserError: the data is no recipe, or one of another network. The network is then as it was.
    """
    if not isinstance(data, (list, tuple)):
        raise UserError(_MALFORMED)
    entries = [LayerRecipe.from_dict(entry) for entry in data]
    _require_own_norms(model, entries)
    gate_layers(model, entries)


def _require_own_norms(model: nn.Module, entries: Sequence[LayerRecipe]) -> None:
    """Refuse a norm that follows another convolution, as far as tracing can tell."""
    modules = dict(model.named_modules(remove_duplicate=False))
    pairs = [(e, modules.get(e.conv), modules[e.norm]) for e in entries if e.norm is not None and e.norm in modules]
    dense = [(entry, conv, norm) for entry, conv, norm in pairs if isinstance(conv, nn.Conv2d)]
    if not dense:
        return
    norms = trace(model).norms
    readers = {norm: conv for conv, norm in norms.items()}
    for entry, conv, norm in dense:
        if norms.get(conv, norm) is not norm or readers.get(norm, conv) is not conv:
            raise UserError(f"the recipe moves {entry.norm} behind {entry.conv}, which it does not follow; {_SAVE_AGAIN}")
