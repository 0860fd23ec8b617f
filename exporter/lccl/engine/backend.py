"""What a backend takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx

from lccl.errors import UserError
from lccl.progress import Progress
from lccl.verify import input_types

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class BuildRequest:
    """A canonical model in its final precision, and the builder's options."""

    model: onnx.ModelProto
    min_shapes: Shapes
    opt_shapes: Shapes
    max_shapes: Shapes
    workspace: int | None
    """MiB."""
    timing_cache: Path | None
    compute_capabilities: tuple[str, ...]
    plugin: bool
    plugin_library: Path | None
    alias_residual: bool
    tf32: bool
    verbose: bool


@dataclass(frozen=True)
class Profile:
    """The range of shapes of one input that the engine takes."""

    input: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class LayerPath:
    """Which way one layer of the ONNX model went into the engine."""

    name: str
    op: str
    path: str
    """"plugin", "plugin, residual in place", "inlined" (LCCLConv in standard ops, every pixel computed) or "native"."""


@dataclass(frozen=True)
class Built:
    """A serialized engine and what its side-car tells."""

    engine: bytes
    version: str
    profiles: tuple[Profile, ...]
    targets: tuple[str, ...]
    """Compute capabilities; empty: the builder's default, or the GPU present."""
    layers: tuple[LayerPath, ...]
    plugin: Path | None = None
    """The library that the engine needs, if it does."""


@dataclass(frozen=True)
class Plugin:
    """The library that an engine needs, by what tells it from others wherever it lies."""

    file: str
    sha256: str


@dataclass(frozen=True)
class EngineResult:
    """What was written."""

    path: Path
    sidecar: Path
    backend: str
    version: str
    precision: str
    profiles: tuple[Profile, ...]
    compute_capabilities: tuple[str, ...]
    layers: tuple[LayerPath, ...]
    bytes: int
    seconds: float
    """Of the build alone."""
    sha256: str
    """Of the engine's bytes."""
    plugin: Plugin | None = None
    """If the engine needs it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "path": str(self.path), "sidecar": str(self.sidecar)}

    def __str__(self) -> str:
        paths: dict[str, int] = {}
        for layer in self.layers:
            if layer.op == "LCCLConv":
                paths[layer.path] = paths.get(layer.path, 0) + 1
        how = ", ".join(f"{count} by {path}" for path, count in paths.items()) or "none"
        targets = ", ".join(self.compute_capabilities) or "builder's default"
        profiles = "; ".join(f"{p.input} {_x(p.min)} to {_x(p.max)}, best at {_x(p.opt)}" for p in self.profiles) or "static"
        return (
            f"Built {self.path} with {self.backend} {self.version} in {self.seconds:.1f} s: {self.precision}, {self.bytes:,} bytes.\n"
            f"LCCLConv layers: {how}. Shapes: {profiles}. Compute capabilities: {targets}.\n"
            f"Details of every layer: {self.sidecar}"
        )


class Backend(Protocol):
    """A builder of engines."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot be used here and what to install; None if it can."""

    def build(self, request: BuildRequest, progress: Progress) -> Built:
        """Builds the engine.

        Raises:
            UserError: an option that this backend does not have, or a failed build with the builder's reason.
        """


def make_profiles(request: BuildRequest) -> tuple[Profile, ...]:
    """One range per input with dynamic dimensions; a dynamic batch is 1 to 8 unless told otherwise.

    Raises:
        UserError: a dimension other than the batch without a shape, an unknown input, or a shape that does not fit.
    """
    inputs = {name: kind.shape.dim for name, kind in input_types(request.model).items()}
    for name in {*request.min_shapes, *request.opt_shapes, *request.max_shapes} - set(inputs):
        raise UserError(f"the model has no input {name!r}; it has {', '.join(inputs)}")
    profiles = []
    for name, dims in inputs.items():
        fixed = [d.dim_value if d.HasField("dim_value") else None for d in dims]
        given = [shapes.get(name) for shapes in (request.min_shapes, request.opt_shapes, request.max_shapes)]
        for shape in filter(None, given):
            _require_fit(name, fixed, shape)
        if None not in fixed:
            continue
        any_given = given[0] or given[1] or given[2]
        low = given[0] or ((1, *any_given[1:]) if any_given and fixed[0] is None else any_given) or _default(name, fixed, 1)
        best = given[1] or given[2] or low
        high = given[2] or (_widened(best) if fixed[0] is None else best)
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise UserError(f"shapes of {name} must grow from min {list(low)} over opt {list(best)} to max {list(high)}")
        profiles.append(Profile(name, tuple(low), tuple(best), tuple(high)))
    return tuple(profiles)


def _widened(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with a batch of at least 8."""
    return (max(8, shape[0]), *shape[1:])


def _default(name: str, fixed: list[int | None], batch: int) -> tuple[int, ...]:
    if any(d is None for d in fixed[1:]):
        shape = "x".join(str(d or "?") for d in fixed)
        raise UserError(f"input {name} is {shape}: say its sizes with --min-shapes, --opt-shapes and --max-shapes {name}:1x...")
    return (batch, *(d for d in fixed[1:] if d is not None))


def _require_fit(name: str, fixed: list[int | None], shape: Sequence[int]) -> None:
    fits = len(shape) == len(fixed) and all(f is None or f == s for f, s in zip(fixed, shape, strict=True))
    if not fits or min(shape) < 1:
        wanted = "x".join(str(d or "?") for d in fixed)
        raise UserError(f"shape {_x(shape)} does not fit input {name}, which is {wanted}")


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
