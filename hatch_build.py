"""Names the wheel's platform where the wheel holds the CUDA kernels' library; without it, the wheel is pure Python."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = Path("exporter", "lccl", "lib", "liblccl_cuda.so")


class PlatformOfTheKernels(BuildHookInterface):  # type: ignore[type-arg]
    """The library uses nothing of Python's, so the wheel serves every Python 3 of this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it writes a wheel."""
        if version == "standard" and (Path(self.root) / LIBRARY).is_file():
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
