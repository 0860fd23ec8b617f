"""What is installed here: packages, compilers, driver, GPUs. Nothing heavy is imported."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from lccl.backends.gpus import driver_version, gpus
from lccl.backends.machine import machine_name
from lccl.version import __version__

PACKAGES = {
    "torch": ("torch",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnx_graphsurgeon": ("onnx-graphsurgeon",),
    "onnxscript": ("onnxscript",),
    "polygraphy": ("polygraphy",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "tensorrt_lean": ("tensorrt-lean", "tensorrt-lean-cu13", "tensorrt-lean-cu12"),
    "triton": ("triton",),
    "lightning_fabric": ("lightning-fabric",),
    "tensorboardX": ("tensorboardX",),
    "matplotlib": ("matplotlib",),
    "jinja2": ("jinja2",),
    "PIL": ("pillow",),
}
"""Module -> the distributions that may bring it."""
TOOLS = ("nvcc", "cmake", "g++")


@dataclass(frozen=True)
class Part:
    """One thing that is here or not."""

    name: str
    version: str | None
    """None where it is not here."""
    detail: str = ""


def parts() -> tuple[Part, ...]:
    """Return everything that the commands of this package can use, here or not."""
    found = [
        Part("lccl", __version__),
        Part("python", platform.python_version(), platform.platform()),
        Part("processor", machine_name(), platform.machine()),
    ]
    found += [Part(name, _version(name, distributions)) for name, distributions in PACKAGES.items()]
    found += [_tool(name) for name in TOOLS]
    found.append(Part("CUDA driver", driver_version()))
    found += [Part("GPU", gpu.name, f"compute capability {gpu.capability}") for gpu in gpus()] or [Part("GPU", None)]
    return tuple(found)


def cuda_of_torch() -> str | None:
    """Return the CUDA that the installed PyTorch was built with, without importing it."""
    found = find_spec("torch")
    folder = next(iter(found.submodule_search_locations or ()), None) if found is not None else None
    try:
        text = (Path(folder) / "version.py").read_text(encoding="utf-8") if folder is not None else ""
    except OSError:
        return None
    version = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return version[1] if version else None


def _version(module: str, distributions: tuple[str, ...]) -> str | None:
    if find_spec(module) is None:
        return None
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _tool(name: str) -> Part:
    from lccl.backends.tensorrt.compiler import find_tool

    path = shutil.which(name) if name == "g++" else find_tool(name)
    if path is None:
        return Part(name, None)
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    version = re.search(r"\b\d+\.\d+(\.\d+)*", said.partition("release")[2] if name == "nvcc" else said)
    return Part(name, version[0] if version else "of unknown version", path)
