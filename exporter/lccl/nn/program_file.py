"""Files of networks that carry their own code: archives of torch.export, and TorchScript."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from lccl.console.quiet import quiet
from lccl.errors import UserError, first_line
from lccl.op import torch_op  # noqa: F401 - a file is read only where each op in it is known

_UNKNOWN_OP = re.compile(r"(?:failed to resolve torch\.ops\.|Unknown builtin op: )([\w.:]*\w)")
"""What PyTorch says of an op that it does not know."""


def read_program(path: Path, what: str, *, archive: bool) -> nn.Module | ExportedProgram:
    """Read a network with its code, from a file that the caller trusts.

    Args:
        path: the file.
        what: the file's kind, for messages.
        archive: whether it is an archive of torch.export; else it is TorchScript.

    Raises:
        UserError: this PyTorch cannot read the file, or an op in it is not known.
    """
    try:
        with quiet():
            if archive:
                return torch.export.load(str(path))
            script: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return script
    except Exception as error:
        unknown = _UNKNOWN_OP.search(_of_archive(path, error) if archive else str(error))
        if unknown:
            op = unknown[1].removesuffix(".default").replace("::", ".")
            raise UserError(
                f"{path} is {what} that calls the op {op}, which no imported package has: import its package in Python, and "
                "load or export the file there"
            ) from None
        raise UserError(
            f"{path} is {what} that this PyTorch cannot read ({first_line(error)}): write it again with this version"
        ) from None


def _of_archive(path: Path, error: Exception) -> str:
    """Return what is wrong with an archive, which ``torch.export.load`` gives to its log alone."""
    from torch.export.pt2_archive._package import load_pt2

    try:
        with quiet():
            load_pt2(str(path))
    except Exception as known:
        return str(known)
    return str(error)
