"""The host program of the CPU kernels, in its variants."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.builds.cmake import ROOT, build, configure, require_cmake, why_no_cmake

CROSS_COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
WITHOUT_ASLR = ("setarch", "-R")
"""ThreadSanitizer needs its addresses where it expects them, which newer kernels no longer
grant."""


@dataclass(frozen=True)
class Host:
    """A built host program."""

    variant: str
    """"plain": as released. "asan": AddressSanitizer and UndefinedBehaviorSanitizer. "tsan":
    ThreadSanitizer. "wide": vectors of AVX-512's length without its instructions. "aarch64":
    another processor, in an emulator."""
    folder: Path
    command: tuple[str, ...]
    """The program, after what runs it."""


def why_no_x86() -> str:
    """Why the x86 instruction sets cannot be compiled here; empty where they can."""
    return why_no_cmake() or ("" if platform.machine() == "x86_64" else f"an x86-64 compiler is not on a {platform.machine()}")


def why_no_aarch64() -> str:
    """Why programs for 64-bit ARM cannot be built and run here; empty where they can."""
    if why := why_no_cmake():
        return why
    missing = [tool for tool in (CROSS_COMPILER, EMULATOR) if shutil.which(tool) is None]
    return f"no {' and no '.join(missing)}: NEON is tested with Debian's g++-aarch64-linux-gnu and qemu-user" if missing else ""


def build_host(request: pytest.FixtureRequest, variant: str) -> Host:
    """Build a variant of the host program."""
    folder = ROOT / "build" / "cpu-tests" / variant
    arguments = ["-S", str(ROOT / "tests" / "cpu"), "-B", str(folder), f"-DLCCL_CPU_VARIANT={variant}"]
    if variant == "aarch64":
        arguments += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}"]
    configure(request, folder, arguments)
    build(request, folder, "cpu_host")
    runner: tuple[str, ...] = (EMULATOR,) if variant == "aarch64" else WITHOUT_ASLR if variant == "tsan" else ()
    return Host(variant, folder, (*runner, str(folder / "cpu_host")))


@pytest.fixture(scope="session")
def cpu_host(request: pytest.FixtureRequest) -> Host:
    """The kernels as they are released."""
    require_cmake()
    return build_host(request, "plain")


@pytest.fixture(scope="session")
def asan_host(request: pytest.FixtureRequest) -> Host:
    """The kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""
    require_cmake()
    return build_host(request, "asan")


@pytest.fixture(scope="session")
def tsan_host(request: pytest.FixtureRequest) -> Host:
    """The kernels under ThreadSanitizer."""
    if why := why_no_cmake() or ("" if shutil.which(WITHOUT_ASLR[0]) else "no setarch: ThreadSanitizer needs it"):
        pytest.skip(why)
    return build_host(request, "tsan")


@pytest.fixture(scope="session")
def wide_host(request: pytest.FixtureRequest) -> Host:
    """The kernels with the AVX-512 instruction set's vectors made of shorter ones."""
    if why := why_no_x86():
        pytest.skip(why)
    return build_host(request, "wide")


@pytest.fixture(scope="session")
def aarch64_host(request: pytest.FixtureRequest) -> Host:
    """The kernels of a 64-bit ARM processor, run by an emulator.

    Skips where that or the compiler is not.
    """
    if why := why_no_aarch64():
        pytest.skip(why)
    return build_host(request, "aarch64")
