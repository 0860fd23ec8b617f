"""Sessions of ONNX Runtime that skip closed pixels if the op's library can be used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lccl.backends.onnxruntime.library import ISA_ENVIRONMENT, OLD_ISA_ENVIRONMENT, check_library
from lccl.errors import UserError
from lccl.signatures.arguments import FILE, NONE, ONNX_MODEL, THREADS, instance_of, takes

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Provider: TypeAlias = "str | tuple[str, dict[str, object]]"
"""An execution provider of ONNX Runtime, by its name, or with its options."""
_state = {"warned": False}


@takes(
    model=FILE | ONNX_MODEL,
    threads=THREADS | NONE,
    options=instance_of("onnxruntime", "SessionOptions", "onnxruntime.SessionOptions") | NONE,
    library=FILE | NONE,
)
def session(
    model: str | Path | onnx.ModelProto,
    *,
    providers: Sequence[Provider] = ("CPUExecutionProvider",),
    threads: int | None = None,
    options: onnxruntime.SessionOptions | None = None,
    library: str | Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a session of ONNX Runtime that skips closed pixels if the op's library can be used.

    If there is no library, ONNX Runtime does not load it, or it does not support a layer (a kernel
    above 7 x 7), the model runs through the op's function body, which gives the same outputs and
    computes every pixel. A warning says so, once per process. A model without LCCLConv nodes runs
    as in any session.

    Args:
        model: a file, or a model in memory.
        providers: ONNX Runtime's execution providers; the op runs on the CPU whatever they are.
        threads: threads of one inference; None: as in ``options``, whose default is one per core.
        options: the session's options, to which the library and ``threads`` are added; use new ones
            for each session. With options of your own, a layer that the library does not support is
            an error, because a library cannot be removed from them.
        library: the op's library; None: the one that LCCL_ORT_LIBRARY names, or the package's own.

    Raises:
        UserError: a library is named and does not exist, LCCL_CPU_ISA names no instruction set of
            this machine, or ONNX Runtime cannot load the model.
    """
    import onnxruntime

    from lccl.backends.onnxruntime.runner import open_session, register_library

    if isinstance(providers, str):
        providers = [providers]
    chosen = onnxruntime.SessionOptions() if options is None else options
    if threads is not None:
        chosen.intra_op_num_threads = threads
    found = check_library(library)
    reason = found.reason
    if found and found.path is not None:
        register_library(chosen, found.path)
        try:
            return open_session(model, chosen, providers)
        except UserError as error:
            names_isa = any(name in error.message for name in (ISA_ENVIRONMENT, OLD_ISA_ENVIRONMENT))
            if options is not None or names_isa or not _has_nodes(model):
                raise
            reason = error.message
        chosen = onnxruntime.SessionOptions()
        if threads is not None:
            chosen.intra_op_num_threads = threads
    try:
        opened = open_session(model, chosen, providers)
    except UserError as error:
        if found:
            raise UserError(reason) from error
        if _has_nodes(model):
            raise UserError(f"{error.message}; the op's library could not help ({reason})", error.fixes) from error
        raise
    if not _state["warned"] and _has_nodes(model):
        _state["warned"] = True
        warnings.warn(
            f"gated convolutions compute every pixel, through the op's function: {reason}", RuntimeWarning, stacklevel=3
        )
    return opened


def _has_nodes(model: str | Path | onnx.ModelProto) -> bool:
    """Return whether the model has LCCLConv nodes; False if it cannot be read."""
    import onnx

    from lccl.op.onnx_op import is_lccl_node

    if not isinstance(model, onnx.ModelProto):
        try:
            model = onnx.load(str(model), load_external_data=False)
        except Exception:  # a DecodeError, or an error of a format that onnx guesses from the name
            return False

    def among(nodes: Iterable[onnx.NodeProto]) -> bool:
        """Look at the nodes, and at those in their branches and bodies."""
        return any(
            is_lccl_node(node) or any(among(graph.node) for a in node.attribute for graph in (a.g, *a.graphs)) for node in nodes
        )

    return among(model.graph.node) or any(among(f.node) for f in model.functions)
