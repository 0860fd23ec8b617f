"""The runner of PyTorch modules, in eager mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import nn

from lccl.backends.interface import Batches
from lccl.errors import UserError, first_line
from lccl.graph.batch_axes import BatchAxes
from lccl.numerics import Array
from lccl.torch_calls import evaluating, flatten, forward_parameters, required_parameters, takes_any_name


class TorchRunner:
    """Runs a module in eval mode, on the device of its parameters.

    Args:
        model: the module. It is called with inputs by name if its ``forward`` has all those names,
            else in their order.
        threads: the size of PyTorch's CPU thread pool, restored when the block ends.
        input_names: names of the inputs where ``forward`` has no parameter that needs one, as in
            ``forward(*xs)``.
    """

    name = "torch"
    batches = Batches()
    axes = BatchAxes()

    def __init__(self, model: nn.Module, threads: int = 1, input_names: Sequence[str] = ()) -> None:
        self._model, self._threads = model, threads
        self._input_names = tuple(input_names)
        tensors = [*model.parameters(), *model.buffers()]
        self._device = tensors[0].device if tensors else torch.device("cpu")
        self.device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        self._parameters = forward_parameters(model)
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
        """The required parameters of the module's ``forward``, else the names that were given."""
        return required_parameters(self._model) or self._input_names

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the module on inputs by name and return its outputs as "output_0", "output_1", ...

        Raises:
            UserError: the inputs do not fit the module.
        """
        tensors = {name: torch.from_numpy(value).to(self._device) for name, value in feed.items()}
        by_name = set(tensors) <= set(self._parameters) or takes_any_name(self._model)
        try:
            with torch.no_grad():
                outputs: Any = self._model(**tensors) if by_name else self._model(*tensors.values())
        except (RuntimeError, ValueError, TypeError) as error:
            shapes = ", ".join(str(list(v.shape)) for v in feed.values())
            raise UserError(f"PyTorch cannot run the model on inputs of shape {shapes}: {first_line(error)}") from error
        return {f"output_{i}": t.cpu().numpy() for i, t in enumerate(flatten(outputs))}
