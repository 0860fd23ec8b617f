"""What building an engine leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lccl.backends.interface import LayerPath, OptimizationProfile
from lccl.backends.profiles import shape_text
from lccl.forms.results import Choice


@dataclass(frozen=True)
class Plugin:
    """The plugin library that an engine needs, by its file name and its content."""

    file: str
    sha256: str


@dataclass(frozen=True)
class EngineResult:
    """What a build wrote."""

    path: Path
    sidecar: Path
    backend: str
    version: str
    precision: str
    profiles: tuple[OptimizationProfile, ...]
    compute_capabilities: tuple[str, ...]
    layers: tuple[LayerPath, ...]
    bytes: int
    seconds: float
    """The time of the build alone."""
    sha256: str
    """The digest of the engine's bytes."""
    plugin: Plugin | None = None
    """The plugin, if the engine needs it."""
    choice: Choice | None = None
    """The forms of the layers and what was measured, of a build for ONNX Runtime."""

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        values = {**asdict(self), "path": str(self.path), "sidecar": str(self.sidecar)}
        return values if self.choice is None else values | {"choice": self.choice.as_dict()}

    def __str__(self) -> str:
        if self.choice is not None:
            written = f"Built {self.path} for ONNX Runtime {self.version} in {self.seconds:.0f} s; details: {self.sidecar}"
            return f"{self.choice}\n{written}"
        paths: dict[str, int] = {}
        for layer in self.layers:
            if layer.op == "LCCLConv":
                paths[layer.path] = paths.get(layer.path, 0) + 1
        how = ", ".join(f"{count} by {path}" for path, count in paths.items()) or "none"
        targets = ", ".join(self.compute_capabilities) or "builder's default"
        profiles = (
            "; ".join(
                f"{p.input} {shape_text(p.min)} to {shape_text(p.max)}, best at {shape_text(p.opt)}" for p in self.profiles
            )
            or "static"
        )
        return (
            f"Built {self.path} with {self.backend} {self.version} in {self.seconds:.1f} s: {self.precision}, {self.bytes:,} bytes.\n"
            f"LCCLConv layers: {how}. Shapes: {profiles}. Compute capabilities: {targets}.\n"
            f"Details of every layer: {self.sidecar}"
        )
