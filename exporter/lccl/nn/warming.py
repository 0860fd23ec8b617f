"""``lccl.warm_up``: one call ahead of those that are waited for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lccl.backends.torch.cuda import kernel_op
from lccl.errors import UserError, first_line
from lccl.errors.arguments import MODULE, takes
from lccl.torch_calls import evaluating


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up did; true when a gated layer skips closed pixels from now on."""

    seconds: float
    """How long the call took, compilers included."""
    layers: int
    """Calls of gated layers on a GPU."""
    skipping: int
    """Those of them that ran by kernels that skip closed pixels."""
    kernels: str
    """Whose kernels these were: "Triton" or "library"; empty where there were none."""
    reasons: tuple[str, ...]
    """Why the others ran in PyTorch's own ops, each once."""

    def __bool__(self) -> bool:
        return self.skipping > 0

    def __str__(self) -> str:
        if not self.layers:
            return "nothing to warm up: no gated layer ran on a GPU, and elsewhere layers compile nothing"
        by = (
            f" by {'kernels that Triton compiled' if self.kernels == 'Triton' else 'the library of kernels'}"
            if self.skipping
            else ""
        )
        why = f"; others compute every pixel: {'; '.join(self.reasons)}" if self.reasons else ""
        return f"warmed up in {self.seconds:.1f} s: {self.skipping} of {self.layers} gated layers skip closed pixels{by}{why}"

    def as_dict(self) -> dict[str, object]:
        """Return the fields under their names."""
        return asdict(self)


@takes(model=MODULE)
def warm_up(model: nn.Module, example: object) -> WarmUp:
    """Call a network once, so that what its gated layers compile when first called is compiled.

    On a GPU without a library of kernels, ``LCCLConv2d`` in eval mode runs by kernels that Triton
    compiles at the first call, and whose first outputs are compared with PyTorch's. A kernel takes
    seconds to compile, and a network has three to a dozen of them. Triton keeps them on the disk
    (``TRITON_CACHE_DIR``, else ``~/.triton``), so that the next process only loads them. A
    compiled kernel is not for one size of maps; but sizes decide which tiles a layer takes, so an
    example of another batch or size may leave a kernel out, which is then compiled when it is
    needed.

    Without a GPU nothing is compiled. The network is called all the same, and the result says so
    and is false: programs that run on both need no case of their own.

    The network is in eval mode meanwhile, without gradients; afterwards every module has its mode
    again. Under ``torch.autocast`` call it within the same block as later.

    Args:
        model: the network, on the device where it will run.
        example: its input there, such as a tensor [N, C, H, W]; a tuple or list holds several
            inputs, a dict inputs by name.

    Returns:
        What ran by which kernels, and in how many seconds.

    Raises:
        UserError: the example does not fit the network.
    """
    args, kwargs = (
        ((), example) if isinstance(example, dict) else (example if isinstance(example, (tuple, list)) else (example,), {})
    )
    start = perf_counter()
    with evaluating(model), torch.no_grad(), kernel_op.watching() as outcomes:
        try:
            made = model(*args, **kwargs)
            _wait_for(made)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the network cannot be called with this example: {first_line(error)}") from error
    ran = [outcome for outcome in outcomes if not outcome.reason]
    return WarmUp(
        perf_counter() - start,
        len(outcomes),
        len(ran),
        ran[0].kernels if ran else "",
        tuple(dict.fromkeys(outcome.reason for outcome in outcomes if outcome.reason)),
    )


def _wait_for(made: object) -> None:
    """Wait until the GPUs that hold outputs have done their work."""
    for device in {leaf.device for leaf in _pytree.tree_leaves(made) if isinstance(leaf, Tensor)}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
