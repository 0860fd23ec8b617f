"""What the plugin's tests share: the host programs and the plugin's library over the emulated machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_build import build, why_no_cuda, why_no_emulator


@pytest.fixture(scope="session")
def trt_host(request: pytest.FixtureRequest) -> Path:
    """The host program with the plugin in it, under sanitizers."""
    if why := why_no_emulator():
        pytest.skip(why)
    return build(request, "emulator", "lccl_trt_host") / "lccl_trt_host"


@pytest.fixture(scope="session")
def registry_host(request: pytest.FixtureRequest) -> Path:
    """The host program that has TensorRT's registry load the plugin."""
    if why := why_no_emulator():
        pytest.skip(why)
    return build(request, "emulator", "lccl_trt_registry_host") / "lccl_trt_registry_host"


@pytest.fixture(scope="session")
def emulated_plugin(request: pytest.FixtureRequest) -> Path:
    """Path of the plugin's library over the emulated machine."""
    if why := why_no_emulator():
        pytest.skip(why)
    return build(request, "emulator", "lccl_trt_plugin_emulated") / "liblccl_trt_plugin_emulated.so"


@pytest.fixture(scope="session")
def trt_plugin(request: pytest.FixtureRequest) -> Path:
    """Path of liblccl_trt_plugin.so; skips where there is no nvcc."""
    if why := why_no_cuda():
        pytest.skip(why)
    return build(request, "release", "lccl_trt_plugin") / "liblccl_trt_plugin.so"


@pytest.fixture(scope="session")
def logger_probe(request: pytest.FixtureRequest) -> Path:
    """A plugin library that tells which TensorRT has loaded it."""
    if why := why_no_emulator():
        pytest.skip(why)
    return build(request, "emulator", "lccl_logger_probe") / "liblccl_logger_probe.so"


@pytest.fixture(params=[10, 11])
def fake_tensorrt(request: pytest.FixtureRequest) -> Path:
    """A library with the logger of one TensorRT version."""
    if why := why_no_emulator():
        pytest.skip(why)
    name = f"lccl_fake_tensorrt_{request.param}"
    return build(request, "emulator", name) / f"lib{name}.so"
