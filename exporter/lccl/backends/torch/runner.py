"""PyTorch, eager."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import nn

from lccl.backends.interface import Batches
from lccl.errors import UserError, first_line
from lccl.numerics import Array
from lccl.torch_calls import evaluating, flatten


class TorchRunner:
    """A module in eval mode, on the device of its parameters.

    Args:
        model: called with the inputs by name where its ``forward`` has those names, in their order otherwise.
        threads: of PyTorch's CPU pool, restored when the block ends.
    """

    name = "torch"
    batches = Batches()

    def __init__(self, model: nn.Module, threads: int = 1) -> None:
        self._model, self._threads = model, threads
        tensors = [*model.parameters(), *model.buffers()]
        self._device = tensors[0].device if tensors else torch.device("cpu")
        self.device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        self._parameters = inspect.signature(model.forward).parameters
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        self._stack.callback(torch.set_num_threads, before)
        self._stack.enter_context(evaluating(self._model))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def input_names(self) -> tuple[str, ...]:
        parameters = self._parameters.values()
        return tuple(p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(value).to(self._device) for name, value in feed.items()}
        by_name = set(tensors) <= set(self._parameters)
        try:
            with torch.no_grad():
                outputs: Any = self._model(**tensors) if by_name else self._model(*tensors.values())
        except (RuntimeError, ValueError, TypeError) as error:
            shapes = ", ".join(str(list(v.shape)) for v in feed.values())
            raise UserError(f"PyTorch cannot run the model on inputs of shape {shapes}: {first_line(error)}") from error
        return {f"output_{i}": t.cpu().numpy() for i, t in enumerate(flatten(outputs))}
