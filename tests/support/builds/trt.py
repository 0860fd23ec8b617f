"""The plugin's host programs, and its library over the emulated machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.builds.cmake import build_preset, require_cmake
from support.builds.cuda import build_release, require_cuda
from support.builds.environments import environment

VERSIONS = ("10.16.1.11", "11.4.0.106")
"""Of TensorRT's lean runtime, one of each major version."""


def tensorrt_library(lean: Path) -> Path:
    (found,) = lean.glob("lib/python*/site-packages/tensorrt_lean_libs/libnvinfer_lean.so.*")
    return found


@pytest.fixture(scope="session", params=VERSIONS)
def lean(request: pytest.FixtureRequest) -> Path:
    """Folder of an environment that holds one version's lean runtime.

    Skips where it cannot be installed.
    """
    version = request.param
    packages = (f"tensorrt-lean-cu13-libs=={version}", f"tensorrt-lean-cu13-bindings=={version}", "numpy")
    return environment(f"tensorrt/{version}", packages)


@pytest.fixture(scope="session")
def trt_host(request: pytest.FixtureRequest) -> Path:
    """The host program with the plugin in it, under sanitizers."""
    require_cmake()
    return build_preset(request, "emulator", "lccl_trt_host") / "lccl_trt_host"


@pytest.fixture(scope="session")
def registry_host(request: pytest.FixtureRequest) -> Path:
    """The host program that has TensorRT's registry load the plugin."""
    require_cmake()
    return build_preset(request, "emulator", "lccl_trt_registry_host") / "lccl_trt_registry_host"


@pytest.fixture(scope="session")
def emulated_plugin(request: pytest.FixtureRequest) -> Path:
    """Path of the plugin's library over the emulated machine."""
    require_cmake()
    return build_preset(request, "emulator", "lccl_trt_plugin_emulated") / "liblccl_trt_plugin_emulated.so"


@pytest.fixture(scope="session")
def trt_plugin(request: pytest.FixtureRequest) -> Path:
    """Path of liblccl_trt_plugin.so; skips where there is no nvcc."""
    require_cuda()
    return build_release(request, "lccl_trt_plugin") / "liblccl_trt_plugin.so"


@pytest.fixture(scope="session")
def gpu_host(request: pytest.FixtureRequest) -> Path:
    """The host program for a GPU.

    It is built and starts without one, skips where there is no nvcc.
    """
    require_cuda()
    return build_release(request, "lccl_trt_gpu_host") / "lccl_trt_gpu_host"


@pytest.fixture(scope="session")
def logger_probe(request: pytest.FixtureRequest) -> Path:
    """A plugin library that tells which TensorRT has loaded it."""
    require_cmake()
    return build_preset(request, "emulator", "lccl_logger_probe") / "liblccl_logger_probe.so"


@pytest.fixture(params=[10, 11])
def fake_tensorrt(request: pytest.FixtureRequest) -> Path:
    """A library with the logger of one TensorRT version."""
    require_cmake()
    name = f"lccl_fake_tensorrt_{request.param}"
    return build_preset(request, "emulator", name) / f"lib{name}.so"
