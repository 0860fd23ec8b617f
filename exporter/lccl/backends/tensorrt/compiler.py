"""Compilation of the native libraries here: the TensorRT plugin, and its kernels for PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lccl.backends.gpus import gpus
from lccl.backends.tensorrt.library import LIBRARY, PACKAGED
from lccl.console.progress import Progress, silent
from lccl.errors import Fix, UserError
from lccl.files import atomic_path, if_abandoned, require_writable

PACKAGE = Path(__file__).parents[2]
ALL = "all"
LIBRARIES = (LIBRARY, "liblccl_cuda.so")
SUPPORTED = ("8.0", "8.6", "8.9", "9.0", "12.0")
"""Compute capabilities that ``all`` stands for; PTX covers those between and after."""
BY_TRITON = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""Those that kernels in Triton are compiled for; others, such as 10.3 and 12.1, take the PTX."""


@dataclass(frozen=True)
class BuiltPlugin:
    """What was compiled."""

    libraries: tuple[Path, ...]
    compute_capabilities: tuple[str, ...]
    seconds: float
    tensorrt_headers: str
    """Folder of NVIDIA's headers, or "the project's own declaration"."""
    kernels: str = ""
    """Which kernels the libraries hold."""

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "libraries": [str(path) for path in self.libraries]}

    def __str__(self) -> str:
        names = ", ".join(str(path) for path in self.libraries)
        return (
            f"Built {names} in {self.seconds:.0f} s for compute capability {', '.join(self.compute_capabilities)}.\n"
            f"{self.kernels}\nTensorRT's interfaces: {self.tensorrt_headers}."
        )


def source_folder() -> Path:
    """The folder of CMakeLists.txt and the native sources, of the package or the checkout.

    Raises:
        UserError: they are in neither.
    """
    for folder in (PACKAGE / "native", PACKAGE.parent.parent):
        if (folder / "CMakeLists.txt").is_file() and (folder / "trt_plugin").is_dir():
            return folder
    raise UserError("this installation of lccl has no native sources: install it with CMake at hand, or from a checkout")


def present_capabilities() -> tuple[str, ...]:
    """Compute capabilities of the GPUs in this machine."""
    return tuple(sorted({gpu.capability for gpu in gpus()}, key=_number))


def _number(capability: str) -> int:
    return int(capability.replace(".", ""))


def capabilities_for(asked: Sequence[str]) -> tuple[str, ...]:
    """The compute capabilities to compile for: those asked for, or those of this machine.

    Raises:
        UserError: nothing was asked for and there is no GPU, or one that the kernels do not run on.
    """
    chosen = tuple(dict.fromkeys(asked)) or present_capabilities()
    if not chosen:
        raise UserError(
            "there is no NVIDIA GPU here to build for",
            (Fix("compute_capabilities", ("8.9",), "or the like"), Fix("compute_capabilities", (ALL,))),
        )
    for text in chosen:
        if text == ALL:
            continue
        if not re.fullmatch(r"[1-9][0-9]?\.[0-9]", text, re.ASCII):
            raise UserError(f"a compute capability is written like 8.9, not {text!r}")
        if _number(text) < 80:
            raise UserError(f"the kernels need compute capability 8.0 or newer, not {text}")
    return SUPPORTED if ALL in chosen else chosen


def build_plugin(
    folder: str | Path | None = None,
    *,
    compute_capabilities: Sequence[str] = (),
    tensorrt_root: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress = silent,
) -> BuiltPlugin:
    """Compile the plugin and the kernels' own library, and put both into a folder.

    With nvcc they hold the portable CUDA kernels, with Triton those in Triton, with both both.

    Args:
        folder: by default the package's own, where everything looks for them.
        compute_capabilities: such as "8.9", or "all"; by default those of the GPUs in this machine.
        tensorrt_root: folder with TensorRT's include/NvInferRuntime.h; without it the project's own
            declaration serves.
        jobs: compilers at once; by default one per core.

    Raises:
        UserError: a tool is missing, or there is neither nvcc nor Triton with pip's CUDA runtime,
            or the compiler failed; nothing is written.
    """
    import time

    target = PACKAGED.parent if folder is None else Path(folder)
    capabilities = capabilities_for(compute_capabilities)
    sources = source_folder()
    tools = {"cmake": _require_tool("cmake")}
    nvcc = find_tool("nvcc")
    if nvcc is None:
        _require_triton(capabilities)
    else:
        tools["nvcc"] = nvcc
        _require_known(nvcc, capabilities)
    _require_headers(tensorrt_root)
    _make_folder(target)
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="lccl-build-") as temporary,
        if_abandoned(lambda: shutil.rmtree(temporary, ignore_errors=True)),
    ):
        build = Path(temporary)
        progress("configuring")
        said = _run(_configure_command(tools, sources, build, capabilities, tensorrt_root, jobs), progress)
        progress("compiling")
        command = [tools["cmake"], "--build", str(build), "--parallel", str(jobs or os.cpu_count() or 1)]
        _run(command, progress)
        written = []
        for name in LIBRARIES:
            with atomic_path(target / name) as path:
                shutil.copyfile(build / name, path)
                path.chmod(0o755)
            written.append(target / name)
    headers = re.search(r"TensorRT's headers: (/.*)", said)
    seconds = time.perf_counter() - started
    interfaces = headers[1] if headers else "the project's own declaration"
    return BuiltPlugin(tuple(written), capabilities, seconds, interfaces, _kernels_of(said, nvcc))


def _kernels_of(said: str, nvcc: str | None) -> str:
    """Tell which kernels CMake said that it compiles."""
    made = re.search(r"Kernels in Triton (\S+) for", said)
    without = re.search(r"Without the kernels in Triton: (.*)", said)
    portable = "Kernels: CUDA's" if nvcc is not None else "Kernels: none of CUDA's, since nvcc is not here"
    if made:
        return f"{portable}, and those in Triton {made[1]}."
    return f"{portable}; none in Triton{': ' + without[1].strip() if without else ''}."


def _require_triton(capabilities: Sequence[str]) -> None:
    """Check that the libraries can be built without nvcc.

    Raises:
        UserError: something is missing, or Triton's kernels are not for a capability.
    """
    packages = {"triton": "triton", "nvidia": "nvidia-cuda-runtime nvidia-cuda-crt"}
    missing = [names for module, names in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"nvcc is not here: {_HOW_TO_GET_NVCC}, or build the kernels in Triton alone: pip install {' '.join(missing)}"
        )
    unknown = [text for text in capabilities if text not in BY_TRITON]
    if unknown:
        raise UserError(
            f"without nvcc there are kernels for compute capability {', '.join(BY_TRITON)}, not {', '.join(unknown)}: "
            f"{_HOW_TO_GET_NVCC}"
        )


def _require_known(nvcc: str, capabilities: Sequence[str]) -> None:
    """Check that this CUDA toolkit compiles for the capabilities.

    Raises:
        UserError: it does not.
    """
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False)
    known = re.findall(r"compute_(\d+)(\d)\b", done.stdout)
    names = [f"{major}.{minor}" for major, minor in known]
    unknown = [text for text in capabilities if names and text not in names]
    if unknown:
        raise UserError(f"{nvcc} does not compile for compute capability {', '.join(unknown)}; it knows {', '.join(names)}")


def _require_headers(root: str | Path | None) -> None:
    """Check the given folder of TensorRT's headers.

    Raises:
        UserError: it has none, or those of a version that is too old.
    """
    if root is None:
        return
    header = Path(root) / "include" / "NvInferRuntime.h"
    if not header.is_file():
        raise UserError(f"{root} has no include/NvInferRuntime.h: name the folder that TensorRT was unpacked to")
    if "IPluginV3OneBuildV2" not in header.read_text(errors="replace"):
        raise UserError(f"TensorRT's headers in {root} are older than 10.3: take those of 10.13 or newer, or none")


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another") from None
    for name in LIBRARIES:
        require_writable(folder / name)


_HOW_TO_GET_NVCC = "install the CUDA toolkit 12.8 or newer and put its bin folder on PATH, or set CUDACXX to nvcc's path"


def find_tool(name: str) -> str | None:
    """Return the path of "nvcc" or "cmake" as a build finds it; None where it is not here."""
    environment = {"nvcc": os.environ.get("CUDACXX"), "cmake": None}[name]
    home = os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return (environment and shutil.which(environment)) or shutil.which(name) or shutil.which(name, path=f"{home}/bin")


def _require_tool(name: str) -> str:
    found = find_tool(name)
    if found is None:
        raise UserError(f"{name} is not here: pip install {name}")
    return found


def _for_triton(capabilities: Sequence[str]) -> list[str]:
    chosen = BY_TRITON if tuple(capabilities) == SUPPORTED else [text for text in capabilities if text in BY_TRITON]
    return [str(_number(text)) for text in chosen] or ["none"]


def _configure_command(
    tools: dict[str, str],
    sources: Path,
    build: Path,
    capabilities: Sequence[str],
    tensorrt_root: str | Path | None,
    jobs: int | None = None,
) -> list[str]:
    numbers = [str(_number(text)) for text in capabilities]
    newest = max(numbers, key=int)
    # PTX of the newest, for GPUs after it; if all are asked for, CMakeLists.txt knows better.
    architectures = ";".join(number if number == newest else f"{number}-real" for number in numbers)
    command = [
        tools["cmake"],
        "-S",
        str(sources),
        "-B",
        str(build),
        "-DCMAKE_BUILD_TYPE=Release",
        "-DLCCL_CUDA=ON",
        "-DLCCL_EMULATOR=OFF",
        "-DLCCL_WARNINGS_ARE_ERRORS=OFF",
        f"-DLCCL_PYTHON={sys.executable}",
        f"-DLCCL_NVCC={tools.get('nvcc', 'OFF')}",
        f"-DLCCL_TRITON_CAPABILITIES={';'.join(_for_triton(capabilities))}",
    ]
    if jobs is not None:
        command.append(f"-DLCCL_TRITON_JOBS={jobs}")
    if tuple(capabilities) != SUPPORTED:
        command.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    if tensorrt_root is not None:
        command.append(f"-DTENSORRT_ROOT={Path(tensorrt_root).resolve()}")
    return command


def _end(process: subprocess.Popen[str]) -> None:
    """End a tool and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(command: list[str], progress: Progress) -> str:
    """Run a tool; what it prints. Its "[ 42%]" or "[12/30]" goes to ``progress``.

    Raises:
        UserError: it failed, with the first line that says why.
    """
    lines = []
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    # In a group of their own, so that all compilers can be ended at once.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    with if_abandoned(lambda: _end(process)), process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if match := re.match(r"\[\s*(\d+)(?:%|/(\d+))\]", line):
                progress("compiling", int(match[1]), int(match[2] or 100))
    if process.returncode != 0:
        reason = next(
            (text for text in lines if re.search(r"\berror\b", text, re.IGNORECASE)), lines[-1] if lines else "no reason given"
        )
        raise UserError(f"{Path(command[0]).name} failed: {reason.strip()}")
    return "\n".join(lines)
