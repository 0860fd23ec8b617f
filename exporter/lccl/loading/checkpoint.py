"""Checkpoints that name their own network, so that one file is enough to export.

Only this module writes and reads them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.errors import Fix, UserError, kind_of, leave_out, shown
from lccl.errors.arguments import FILE, MODULE, NONE, VALUES_BY_NAME, takes
from lccl.files import atomic_path
from lccl.loading.safetensors_file import DENSITIES_NAME, RECIPE_NAME, SUFFIX, THRESHOLDS_NAME, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "lccl-checkpoint"
FORMAT_VERSION = 1
GATED_VERSION = 2
"""The version of a checkpoint with a recipe, which an lccl that does not know recipes refuses."""
THRESHOLDS_VERSION = 3
"""The version of a checkpoint with thresholds beside those of its factory, in the same way."""
RECIPE_KEY = RECIPE_NAME
"""Where a checkpoint of any other format may hold what :func:`lccl.nn.recipe` returned."""
DENSITIES_KEY = DENSITIES_NAME
"""Where a checkpoint of lccl has the densities that its gates had in training, by layer."""
THRESHOLDS_KEY = THRESHOLDS_NAME
"""Where a checkpoint of lccl has the thresholds of gates that its factory does not set."""
_EXTRA_STATE = "_extra_state"
"""Under this name PyTorch stores what a module saves besides tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and, where the file says so, how to build its network."""

    state_dict: Mapping[str, Tensor]
    factory: str | None = None
    """"pkg.module:callable" that builds the network; None: the caller has to name it."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    """The shape of one input without the batch: (C, H, W)."""
    recipe: Sequence[Any] | None = None
    """What to gate in the factory's network before the weights are loaded; None: nothing."""
    densities: Mapping[str, float] = field(default_factory=dict)
    """The densities that gates had in training, by layer, where something observed them."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By layer, thresholds of gates that neither the factory nor a recipe sets."""


@takes(path=FILE, model=MODULE, kwargs=VALUES_BY_NAME | NONE)
def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    factory: str,
    kwargs: Mapping[str, object] | None = None,
    input_shape: Sequence[int] | None = None,
) -> None:
    """Write the model's state dict with the name of the factory that builds it.

    The file holds plain data only and loads without running pickled code.
    The factory of a network from :func:`lccl.nn.convert` builds the dense network: what was gated
    is written beside it.

    Args:
        path: the file to write; with a name that ends with ``.safetensors``, in that format.
        model: the network. Of DataParallel, an average (AveragedModel) and torch.compile the
            network inside is saved.
        factory: "pkg.module:callable", called with ``kwargs`` to build the network.
        kwargs: plain values for the factory.
        input_shape: (C, H, W) of one input.

    Raises:
        UserError: a factory or shape of another form, or a file that cannot be written.
    """
    import torch

    from lccl.nn import recipe
    from lccl.nn.densities import trained_densities
    from lccl.torch_calls import unwrapped

    if not isinstance(factory, str) or not all(factory.partition(":")):
        raise UserError(f'a factory is named "pkg.module:callable", not {shown(factory)}')
    shape = None if input_shape is None else _three_sizes(input_shape)
    network = unwrapped(model)
    gated = recipe(network)
    content = {
        "format": FORMAT,
        "version": GATED_VERSION if gated else FORMAT_VERSION,
        "factory": factory,
        "kwargs": dict(kwargs or {}),
        "input_shape": shape,
        "state_dict": network.state_dict(),
    }
    if gated:
        content[RECIPE_KEY] = gated
    thresholds = _thresholds(network)
    if thresholds:
        content[THRESHOLDS_KEY] = thresholds
    if any(thresholds.values()):
        content["version"] = THRESHOLDS_VERSION
    densities = trained_densities(network)
    if densities:
        content[DENSITIES_KEY] = densities
    with atomic_path(path) as temporary:
        if Path(path).suffix == SUFFIX:
            write_safetensors(temporary, content)
        else:
            torch.save(content, temporary)


def _three_sizes(shape: Any) -> list[int]:
    try:
        sizes = [0 if isinstance(size, bool) else operator.index(size) for size in shape]
    except TypeError:
        sizes = []
    if len(sizes) != 3 or min(sizes) < 1:
        raise UserError(f"input_shape is (C, H, W) of one input, not {shown(shape)}")
    return sizes


def read_checkpoint(content: object, path: Path, key: str | None = None, key_option: str = "state_dict_key") -> Checkpoint:
    """Read a checkpoint from content: lccl's own format, or a state dict, bare or nested.

    Args:
        content: what ``torch.load`` returned.
        path: the file's path, for messages.
        key: which entry of a nested checkpoint is the state dict.
        key_option: the keyword that a message names for the key.

    Raises:
        UserError: there is no state dict in it, or there are several and no ``key`` to choose.
    """
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        if content.get("version") not in (FORMAT_VERSION, GATED_VERSION, THRESHOLDS_VERSION):
            raise UserError(
                f"{path} has checkpoint version {content.get('version')}; this lccl reads {FORMAT_VERSION} to "
                f"{THRESHOLDS_VERSION}: update lccl"
            )
        if key is not None:
            raise UserError(f"{path} is a checkpoint of lccl's own, with one state dict", leave_out(key_option))
        return _own_format(content, path)
    return Checkpoint(_find_state_dict(content, path, key, key_option), recipe=_recipe(content, path))


def _recipe(content: Any, path: Path) -> Sequence[Any] | None:
    found = content.get(RECIPE_KEY) if isinstance(content, Mapping) else None
    if found is not None and not isinstance(found, (list, tuple)):
        raise UserError(f"{path} holds {kind_of(found)} as {RECIPE_KEY}: save lccl.nn.recipe(model) there")
    return found


def _own_format(content: Mapping[str, Any], path: Path) -> Checkpoint:
    state, factory, kwargs, shape = (content.get(k) for k in ("state_dict", "factory", "kwargs", "input_shape"))
    well_formed = (
        _is_state_dict(state)
        and isinstance(factory, str)
        and isinstance(kwargs or {}, Mapping)
        and (shape is None or (isinstance(shape, (list, tuple)) and all(isinstance(d, int) and d > 0 for d in shape)))
    )
    if not well_formed:
        raise UserError(f"{path} is not a well-formed lccl checkpoint: write it again with lccl.save_checkpoint")
    densities, thresholds = (_numbers(content.get(key)) for key in (DENSITIES_KEY, THRESHOLDS_KEY))
    kwargs, shape = kwargs or {}, tuple(shape) if shape else None
    return Checkpoint(state or {}, factory, kwargs, shape, _recipe(content, path), densities, thresholds)


def _numbers(given: object) -> dict[str, float]:
    """Return the finite numbers of a dict by name."""
    found = given if isinstance(given, Mapping) else {}
    return {str(name): float(n) for name, n in found.items() if type(n) in (int, float) and math.isfinite(n)}


def _thresholds(network: nn.Module) -> dict[str, float]:
    """Return the thresholds of layers without a recipe, which keeps its own.

    Those of 0 too, since the factory may build others.
    """
    from lccl.nn import LCCLConv2d

    layers = {path: m for path, m in network.named_modules() if isinstance(m, LCCLConv2d) and m.recipe is None}
    return {path: float(layer.gate_threshold) for path, layer in layers.items()}


def set_thresholds(network: nn.Module, thresholds: Mapping[str, float], path: Path) -> None:
    """Set the thresholds of a checkpoint, by layer.

    Raises:
        UserError: the network has no such gated layer, or a threshold is below 0.
    """
    from lccl.nn import LCCLConv2d

    layers = {name: m for name, m in network.named_modules() if isinstance(m, LCCLConv2d)}
    for name, threshold in thresholds.items():
        if name not in layers and threshold == 0:
            continue
        if name not in layers or threshold < 0:
            raise UserError(
                f"{path} has the threshold {threshold} for {name}, which is no gated layer of this network, or is below 0"
            )
        layers[name].gate_threshold = threshold


def _is_state_dict(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) for k in value)
        and all(isinstance(v, torch.Tensor) or k.endswith(_EXTRA_STATE) for k, v in value.items())
    )


def _find_state_dict(content: Any, path: Path, key: str | None, key_option: str) -> Mapping[str, Tensor]:
    if key is not None:
        if not isinstance(content, Mapping) or not _is_state_dict(content.get(key)):
            raise UserError(f"{path} has no state dict under {shown(key)}; it holds {_keys(content)}")
        found: Mapping[str, Tensor] = content[key]
        return found
    if _is_state_dict(content):
        bare: Mapping[str, Tensor] = content
        return bare
    nested = {k: v for k, v in content.items() if _is_state_dict(v)} if isinstance(content, Mapping) else {}
    for name in ("state_dict", "model", "model_state_dict", "net", "network"):
        if name in nested and not any(_may_be_one(nested[name], other) for k, other in nested.items() if k != name):
            named: Mapping[str, Tensor] = nested[name]
            return named
    if len(nested) == 1:
        return next(iter(nested.values()))
    if nested:
        raise UserError(f"{path} holds several state dicts ({', '.join(nested)})", Fix(key_option, next(iter(nested))))
    raise UserError(f"{path} holds no state dict; it holds {_keys(content)}: save model.state_dict() alone")


def _may_be_one(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts may be of one network, as weights and their average are."""
    return sorted(t.shape for t in one.values() if t.dim()) == sorted(t.shape for t in other.values() if t.dim())


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return kind_of(content)
    return "the keys " + ", ".join(map(str, list(content)[:8])) if content else "an empty dict"
