"""The CUDA kernels' libraries, by nvcc and for the emulated machine, and disassemblers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.builds.cmake import ROOT, build, build_preset, configure, require_cmake, why_no_cmake
from support.share import share

if TYPE_CHECKING:
    from lccl.backends.torch.cuda.library import Library

ALL_ARCHITECTURES = ("80", "86-real", "89-real", "90-real", "120")
"""CMakeLists.txt's. Without "-real" there is PTX too, for architectures to come."""
SOME_ARCHITECTURES = ("90-real", "120")
"""What `make test` compiles for; `make thorough` compiles for all."""


def find_nvcc() -> str | None:
    """Path of nvcc, looked for where CMakeLists.txt looks: CUDACXX, PATH, CUDA_PATH."""
    named = os.environ.get("CUDACXX")
    toolkit = os.environ.get("CUDA_PATH")
    places = ((named, None), ("nvcc", None), ("nvcc", f"{toolkit}/bin" if toolkit else ""))
    return next((found for name, path in places if name and (found := shutil.which(name, path=path))), None)


def why_no_cuda() -> str:
    """Why the CUDA kernels cannot be built here; empty where they can."""
    if find_nvcc() is None:
        return "no nvcc: the CUDA kernels are compiled where the CUDA toolkit 12.8 or newer is on PATH"
    return why_no_cmake()


def require_cuda() -> None:
    """Skip the test where the CUDA kernels cannot be built."""
    if why := why_no_cuda():
        pytest.skip(why)


def architectures() -> tuple[str, ...]:
    """The architectures that the tests compile for, as CMake writes them."""
    return tuple(share(ALL_ARCHITECTURES, SOME_ARCHITECTURES))


def build_release(request: pytest.FixtureRequest, target: str) -> Path:
    """Build a target of the preset "release" for :func:`architectures`."""
    chosen = architectures()
    if chosen == ALL_ARCHITECTURES:
        return build_preset(request, "release", target)
    return build_preset(request, "release", target, "release-some", ["-DCMAKE_CUDA_ARCHITECTURES=" + ";".join(chosen)])


@pytest.fixture(scope="session")
def cuda_library_path(request: pytest.FixtureRequest) -> Path:
    """Path of liblccl_cuda.so, up to date with its sources.

    Skips where there is no nvcc or no CMake.
    """
    require_cuda()
    return build_release(request, "lccl_cuda") / "liblccl_cuda.so"


@pytest.fixture(scope="session")
def emulator_library_path(request: pytest.FixtureRequest) -> Path:
    """Path of liblccl_emulator.so, up to date with its sources.

    Skips where there is no g++ or no CMake.
    """
    require_cmake()
    return build_preset(request, "emulator", "lccl_emulator") / "liblccl_emulator.so"


RECORDED_KERNELS = (
    *(f"gate-float16-{channels}" for channels in ("eights", "any")),
    *(f"rows_64x32-float16-{channels}" for channels in ("eights", "any")),
    *("boxes_2x64x64-float16-eights", "close-float16"),
    *("gate-float32-any-nchw", "rows_64x32-float32-any-nchw", "close-float32-nchw"),
)
"""That the recorded library holds, for 9.0: as few as show each way to lay parameters out."""
CUBIN_CACHE = ROOT / "build" / "cubins"


@pytest.fixture(scope="session")
def recorded_library_path(request: pytest.FixtureRequest) -> Path:
    """Path of liblccl_recorded.so: the host's side of the Triton kernels over a driver that records.

    Skips where there is no Triton, no pip's CUDA runtime or no CMake.
    """
    require_cmake()
    pytest.importorskip("triton", reason="pip install triton")
    if importlib.util.find_spec("nvidia") is None:
        pytest.skip("no headers of CUDA's runtime: pip install nvidia-cuda-runtime nvidia-cuda-crt")
    folder = ROOT / "build" / "recorded"
    settings = {
        "LCCL_CUDA": "ON",
        "LCCL_NVCC": "OFF",
        "LCCL_ORT": "OFF",
        "LCCL_EMULATOR": "OFF",
        "LCCL_PYTHON": sys.executable,
        "LCCL_TRITON_CAPABILITIES": "90",
        "LCCL_TRITON_ONLY": ";".join(RECORDED_KERNELS),
        "LCCL_TRITON_CACHE": str(CUBIN_CACHE),
    }
    configure(request, folder, ("-S", str(ROOT), "-B", str(folder), *(f"-D{k}={v}" for k, v in settings.items())))
    return build(request, folder, "lccl_recorded") / "liblccl_recorded.so"


@pytest.fixture(scope="session")
def cuda_library(cuda_library_path: Path) -> Library:
    """The CUDA kernels' library; its table and its planning need no GPU."""
    from lccl.backends.torch.cuda.library import load

    return load(cuda_library_path)


@dataclass(frozen=True)
class Disassembler:
    """cuobjdump, and nvdisasm which it calls."""

    cuobjdump: Path
    path: str
    """PATH on which it finds nvdisasm."""

    def run(self, *arguments: str | Path) -> str:
        """What cuobjdump prints.

        Raises:
            RuntimeError: it failed.
        """
        command = [str(a) for a in (self.cuobjdump, *arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": self.path})
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        return done.stdout


def find_disassembler() -> Disassembler | None:
    """The tools of the CUDA toolkit if it is on PATH, else those of NVIDIA's packages.

    The packages are nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
    """
    spec = importlib.util.find_spec("nvidia")
    packaged = [p for root in (spec.submodule_search_locations or [] if spec else []) for p in Path(root).glob("cu*/bin")]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, sorted(packaged, reverse=True))])
    cuobjdump = shutil.which("cuobjdump", path=path)
    return Disassembler(Path(cuobjdump), path) if cuobjdump and shutil.which("nvdisasm", path=path) else None


@pytest.fixture(scope="session")
def disassembler() -> Disassembler:
    """cuobjdump and nvdisasm; skips where they are not."""
    found = find_disassembler()
    if found is None:
        pytest.skip("no cuobjdump or nvdisasm: they come with the CUDA toolkit, and with lccl's dev extra on Linux")
    return found
