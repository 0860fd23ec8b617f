"""Checkpoints as ``.safetensors`` files: tensors, and in the metadata what builds their network.

Metadata is text, so values other than names are JSON in it.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lccl.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
RECIPE_NAME = "lccl_recipe"
"""Where a file of any writer may hold, as JSON, what :func:`lccl.nn.recipe` returned."""
DENSITIES_NAME = "lccl_densities"
"""Where a checkpoint of lccl has, as JSON, the densities of its gates in training."""
THRESHOLDS_NAME = "lccl_thresholds"
"""Where a checkpoint of lccl has, as JSON, the thresholds of its gates."""
_VERSION_NAME, _MODULES_NAME = "lccl.version", "lccl.module_versions"


def is_safetensors(path: Path) -> bool:
    """Return whether a file is one by its beginning, the size of a JSON header and its brace."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint's content as a safetensors file.

    A tensor under several names is stored once; the metadata has the other names, as
    ``safetensors.torch.save_model`` writes them.

    Args:
        path: the file to write.
        content: "state_dict", "version" and what else a checkpoint of lccl holds.

    Raises:
        UserError: a value that is neither a tensor nor plain data, or a file that cannot be
            written.
    """
    with _installed():
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    tensors, notes = _stored_once(content["state_dict"])
    notes |= {"format": "pt", _VERSION_NAME: str(content["version"]), "lccl.factory": content["factory"]}
    plain = {
        "lccl.kwargs": content["kwargs"],
        "lccl.input_shape": content["input_shape"],
        _MODULES_NAME: getattr(content["state_dict"], "_metadata", None),
        RECIPE_NAME: content.get(RECIPE_NAME),
        DENSITIES_NAME: content.get(DENSITIES_NAME),
        THRESHOLDS_NAME: content.get(THRESHOLDS_NAME),
    }
    notes |= {name: _as_json(name, value) for name, value in plain.items() if value is not None}
    try:
        save_file(tensors, str(path), metadata=notes)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot write the weights as safetensors ({first_line(error)}): choose a name that ends with .pt"
        ) from None


def read_safetensors(path: Path, format_name: str) -> Mapping[str, Any]:
    """Read a safetensors file as ``torch.load`` gives a checkpoint.

    Args:
        path: the file.
        format_name: the "format" of a checkpoint that lccl wrote.

    Returns:
        A checkpoint of lccl, or the state dict, nested where a recipe is beside it.

    Raises:
        UserError: the file is damaged, or its metadata is not what was written.
    """
    with _installed():
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            notes = file.metadata() or {}
            state: OrderedDict[str, Any] = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError, OSError):
        raise UserError(f"{path} is not a safetensors file, or it is cut off: save or copy it again") from None
    for name, stored in notes.items():
        if name not in state and stored in state:
            state[name] = state[stored]
    versions = _of_json(notes, _MODULES_NAME, path)
    if isinstance(versions, Mapping) and not _are_versions(versions):
        raise UserError(f"{path} holds module versions under {_MODULES_NAME} that are none: save it again")
    if isinstance(versions, Mapping):
        state._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    recipe = {RECIPE_NAME: _of_json(notes, RECIPE_NAME, path)} if RECIPE_NAME in notes else {}
    if _VERSION_NAME not in notes:
        return {"state_dict": state, **recipe} if recipe else state
    return {
        "format": format_name,
        "version": _of_json(notes, _VERSION_NAME, path),
        "factory": notes.get("lccl.factory"),
        "kwargs": _of_json(notes, "lccl.kwargs", path),
        "input_shape": _of_json(notes, "lccl.input_shape", path),
        "state_dict": state,
        DENSITIES_NAME: _of_json(notes, DENSITIES_NAME, path),
        THRESHOLDS_NAME: _of_json(notes, THRESHOLDS_NAME, path),
        **recipe,
    }


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Say how to get the package, where an import within the block does not find it."""
    try:
        yield
    except ModuleNotFoundError:
        raise UserError("a .safetensors file needs safetensors, which is not installed: pip install safetensors") from None


def _stored_once(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, none of which shares memory, and names -> the name that is kept."""
    import torch

    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    memory: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_quantized:
            raise UserError(f"safetensors holds plain tensors alone, and {name} is none: choose a name that ends with .pt")
        tensor = value.detach()
        place = tensor.untyped_storage().data_ptr()
        key = (place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
        if place and key in seen:
            others[name] = seen[key]
            continue
        seen[key] = name
        tensor = tensor.cpu()
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format) if place in memory else tensor.contiguous()
        memory.add(place)
    return tensors, others


def _as_json(name: str, value: object) -> str:
    """Write plain values as JSON.

    Raises:
        UserError: JSON would give other values back. Tuples come back as lists.
    """
    try:
        text = json.dumps(value)
        kept = json.loads(text) == _lists(value)
    except (TypeError, ValueError):
        kept = False
    if not kept:
        what = name.removeprefix("lccl.")
        raise UserError(
            f"a .safetensors file holds {what} as JSON, which has numbers, text, lists and dicts with names: choose a name that "
            "ends with .pt"
        )
    return text


def _lists(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _are_versions(value: object) -> bool:
    """Return whether the value is what ``state_dict`` keeps beside tensors: a dict by module."""
    return isinstance(value, Mapping) and all(
        isinstance(module, Mapping) and isinstance(module.get("version", 0), (int, type(None))) for module in value.values()
    )


def _of_json(notes: Mapping[str, str], name: str, path: Path) -> Any:
    if name not in notes:
        return None
    parse: Callable[[str], Any] = json.loads
    try:
        return parse(notes[name])
    except (ValueError, RecursionError):
        raise UserError(f"{path} holds text under {name} that is no JSON: save it again") from None
