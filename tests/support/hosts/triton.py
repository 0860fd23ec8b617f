"""The op by Triton's interpreter, and calls of single kernels.

Import it where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

from lccl.backends.torch.triton.launch import memory_of, run
from lccl.op.reference import lccl_conv
from support.cases.op_cases import Case

HOPPER = 90
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
TOLERANCES = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5}
"""Relative to max(1, largest output)."""
_WIDE = ("B", "gate_B", "post_scale", "post_bias")


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Let the interpreter prepare Triton's language once a launch, and not look for overflows.

    It does the first again with each call of a function, and the second with each sum of integers:
    together more than half of its time. :func:`watching_overflows` switches the second on.
    """
    options, patch = interpreter.interpreter_builder.options, interpreter._patch_lang
    scopes: dict[str, Any] = {}

    def once(function: Callable[..., Any]) -> _Scopes:
        if function.__module__ not in scopes:
            scopes[function.__module__] = patch(function)
        return _Scopes(scopes)

    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)
    interpreter._patch_lang = once
    try:
        yield
    finally:
        interpreter.interpreter_builder.options, interpreter._patch_lang = options, patch


@dataclass
class _Scopes:
    """What the interpreter has changed in this launch, by the module whose functions ask for it."""

    scopes: dict[str, Any]

    def restore(self) -> None:
        """Undo all, the last change first, when the launch ends."""
        while self.scopes:
            self.scopes.popitem()[1].restore()


@contextmanager
def watching_overflows() -> Iterator[None]:
    """Let sums and products of integers fail that leave their type."""
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=True)
    try:
        yield
    finally:
        interpreter.interpreter_builder.options = options


def tensors(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A case's inputs, in the contract's types for T."""
    return {name: torch.from_numpy(a).to(torch.float32 if name in _WIDE else dtype) for name, a in case.inputs().items()}


def reference(case: Case, inputs: dict[str, torch.Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return lccl_conv({name: t.double().numpy() for name, t in inputs.items()}, case.attributes)


def error_of(got: torch.Tensor, want: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Largest difference relative to max(1, largest output); infinite where only one has a NaN."""
    found = got.double().numpy()
    assert found.shape == want.shape
    if not np.array_equal(np.isnan(found), np.isnan(want)):
        return float("inf")
    return float(np.nanmax(np.abs(found - want), initial=0) / max(1.0, np.nanmax(np.abs(want), initial=0)))


def require_right(case: Case, dtype: torch.dtype, configuration: str | None, *, in_place: bool = False) -> None:
    """Run a case by a configuration; None: the one that is chosen for an H100.

    Lanes of y's memory beyond K hold NaN before, and have to be 0 after. With ``in_place`` y is
    written over the residual.
    """
    inputs = tensors(case, dtype)
    want = reference(case, inputs)
    n, k, ho, wo = want.shape
    y = memory_of(inputs["residual"]) if in_place else torch.full((n, ho, wo, -(-k // 8) * 8), torch.nan, dtype=dtype)
    if in_place and y.data_ptr() == inputs["residual"].data_ptr():
        y = y.clone()
    given = dict(inputs)
    if in_place:
        given["residual"] = y[..., :k].permute(0, 3, 1, 2)
    got = run(given, case.attributes, capability=HOPPER, configuration=configuration, into=y)
    assert error_of(got, want) <= TOLERANCES[dtype]
    assert not y[..., k:].any()
