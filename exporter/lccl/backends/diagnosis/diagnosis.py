"""What works here, and for the rest why not and the command that gets it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lccl.backends.diagnosis.onnxruntime_library import isa_in_words, library_report, skips_pixels
from lccl.backends.diagnosis.parts import Part, cuda_of_torch, parts
from lccl.backends.diagnosis.tensorrt_plugin import plugin_report
from lccl.console.text import table
from lccl.errors import UserError, first_line, shown
from lccl.errors.requires import NEEDS, PACKAGES, how_to_install


@dataclass(frozen=True)
class Ability:
    """Something that a user may want to do here."""

    name: str
    """As :meth:`Diagnosis.missing` takes it."""
    what: str
    """In words."""
    works: bool
    detail: str
    """How it works, or why it does not."""
    fix: str = ""
    """The command that gets it, or what is needed; empty where it works."""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found. It prints as two tables."""

    parts: tuple[Part, ...]
    abilities: tuple[Ability, ...]
    onnxruntime: dict[str, Any]
    """Of the CPU op's library."""
    tensorrt: dict[str, Any]
    """Of the plugin and TensorRT's registries."""

    def missing(self, names: Sequence[str]) -> tuple[Ability, ...]:
        """Return those of the named abilities that do not work.

        Raises:
            UserError: there is no ability of a name.
        """
        known = {ability.name: ability for ability in self.abilities}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"there is nothing called {shown(unknown[0])} to require: choose from {', '.join(known)}")
        return tuple(known[name] for name in names if not known[name].works)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "parts": [asdict(part) for part in self.parts],
            "abilities": [asdict(ability) for ability in self.abilities],
            "onnxruntime": self.onnxruntime,
            "tensorrt": self.tensorrt,
        }

    def __str__(self) -> str:
        here = [(part.name, part.version or "not here", part.detail) for part in self.parts]
        able = [(a.name, "works" if a.works else "no", a.what, a.detail) for a in self.abilities]
        lines = [table(("what", "version", ""), here), "", table(("to require", "", "what it does", ""), able)]
        fixes = [f"{a.name}: {a.fix}" for a in self.abilities if a.fix]
        return "\n".join([*lines, *(["", "To get the rest:", *(f"  {fix}" for fix in fixes)] if fixes else [])])


def diagnose() -> Diagnosis:
    """Look at everything here. It takes seconds: TensorRT is imported where it is installed."""
    found = parts()
    library, plugin = _reported(library_report), _reported(plugin_report)
    versions = {part.name: part.version for part in found}
    rtx, full = _rtx_build(), _tensorrt_build(plugin)
    abilities = (
        _needs("export", "export networks, compare them"),
        _needs("train", "train and tune networks with gates"),
        _packages("fit", "train by lccl.train.fit", ("lightning_fabric", "tensorboardX")),
        _packages("report", "write a comparison as an HTML page", ("jinja2", "matplotlib")),
        _packages("images", "read folders of images", ("PIL",)),
        _onnxruntime(),
        _cpu_op(library),
        rtx,
        _engines("tensorrt-rtx", "run engines of TensorRT for RTX", rtx, versions),
        full,
        _engines("tensorrt", "run engines of TensorRT that skip pixels", full, versions),
        _cuda(versions),
        _build_plugin(versions),
    )
    return Diagnosis(found, abilities, library, plugin)


def _reported(report: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a report, or why there is none: a variable misleads, a package does not load."""
    try:
        return report()
    except Exception as error:  # whatever a broken installation raises
        return {"failed": error.message if isinstance(error, UserError) else f"it does not load: {first_line(error)}"}


def _needs(name: str, what: str) -> Ability:
    """Return an ability that needs nothing but packages."""
    need = NEEDS[name]
    missing = [PACKAGES[module].label for module in need.modules if importlib.util.find_spec(module) is None]
    if missing:
        return Ability(name, what, False, f"without {', '.join(missing)}", f"pip install 'lccl[{need.extras[0]}]'")
    return Ability(name, what, True, ", ".join(PACKAGES[module].label for module in need.modules))


def _packages(name: str, what: str, modules: Sequence[str]) -> Ability:
    """Return an ability that needs these packages."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        labels = ", ".join(PACKAGES[module].label for module in missing)
        return Ability(name, what, False, f"without {labels}", how_to_install(missing[0]))
    return Ability(name, what, True, ", ".join(PACKAGES[module].label for module in modules))


def _onnxruntime() -> Ability:
    from lccl.backends.onnxruntime.library import OLDEST

    name, what = "onnxruntime", "run exported files in ONNX Runtime, every pixel computed"
    oldest = ".".join(map(str, OLDEST))
    try:
        import onnxruntime

        version = onnxruntime.__version__
    except Exception as error:  # whatever a broken installation raises
        return Ability(name, what, False, f"it does not load: {first_line(error)}", f"pip install 'onnxruntime>={oldest}'")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return Ability(name, what, False, f"ONNX Runtime {version} is too old", f"pip install 'onnxruntime>={oldest}'")
    return Ability(name, what, True, f"ONNX Runtime {version}")


def _cpu_op(library: dict[str, Any]) -> Ability:
    from lccl.backends.onnxruntime.library import ENVIRONMENT

    name, what = "onnxruntime-lccl", "skip closed pixels in ONNX Runtime on the CPU"
    if "failed" in library:
        return Ability(name, what, False, library["failed"], _unset(ENVIRONMENT))
    if skips_pixels(library):
        return Ability(name, what, True, f"{library['library']}, {isa_in_words(library)}")
    if library["takes_library"]:
        return Ability(name, what, False, isa_in_words(library), f"unset {library['isa_asked_by']}")
    return Ability(name, what, False, library["reason"].removesuffix(f": {library['fix']}"), library["fix"])


def _unset(variable: str) -> str:
    return f"unset {variable}" if os.environ.get(variable) else "install it again"


def _rtx_build() -> Ability:
    from lccl.backends.tensorrt_rtx.builder import MODULES

    return _builder("tensorrt-rtx-build", "build engines of TensorRT for RTX, without a GPU too", "tensorrt_rtx", MODULES)


def _tensorrt_build(plugin: dict[str, Any]) -> Ability:
    name, what = "tensorrt-build", "build engines of TensorRT that skip pixels"
    able = _builder(name, what, "tensorrt", ("tensorrt",))
    if not able.works:
        return able
    from lccl.backends.tensorrt.library import ENVIRONMENT

    if "failed" in plugin:
        return Ability(name, what, False, plugin["failed"], _unset(ENVIRONMENT))
    own = next((r for r in plugin["registries"] if r["module"] == "tensorrt"), None)
    if own is not None and own["holds_plugin"]:
        return Ability(name, what, True, f"{able.detail}, whose registry holds {plugin['library']}")
    said = plugin["missing"] if plugin["library"] is None or own is None else own["reason"]
    return Ability(name, what, False, said.removesuffix(f": {plugin['fix']}").removesuffix(f"; {plugin['fix']}"), plugin["fix"])


def _builder(name: str, what: str, package: str, modules: Sequence[str]) -> Ability:
    present = next((module for module in modules if importlib.util.find_spec(module) is not None), None)
    if present is None:
        return Ability(name, what, False, f"without {PACKAGES[package].label}", how_to_install(package))
    try:
        version = importlib.import_module(present).__version__
    except Exception as error:  # whatever a broken installation raises
        return Ability(name, what, False, f"{present} does not load: {first_line(error)}", how_to_install(package))
    return Ability(name, what, True, f"{PACKAGES[package].label} {version}")


def _engines(name: str, what: str, builder: Ability, versions: dict[str, str | None]) -> Ability:
    if not builder.works:
        return Ability(name, what, False, builder.detail, builder.fix)
    if versions["GPU"] is None:
        return Ability(name, what, False, "there is no NVIDIA GPU with a driver", "a machine with an NVIDIA GPU and its driver")
    return Ability(name, what, True, f"on {versions['GPU']}")


def _cuda(versions: dict[str, str | None]) -> Ability:
    from lccl.backends.torch.cuda.library import library_path

    name, what = "cuda", "skip closed pixels in PyTorch on a GPU"
    torch = versions["torch"]
    if torch is None:
        return Ability(name, what, False, "without PyTorch", how_to_install("torch"))
    if cuda_of_torch() is None:
        return Ability(name, what, False, f"PyTorch {torch} has no CUDA", "pip uninstall -y torch && pip install torch")
    if versions["GPU"] is None:
        return Ability(name, what, False, "there is no NVIDIA GPU with a driver", "a machine with an NVIDIA GPU and its driver")
    library = library_path() if library_path().is_file() else None
    if library is None and versions["triton"] is None:
        return Ability(name, what, False, "neither a built library nor Triton", "pip install triton, or lccl build-plugin")
    return Ability(name, what, True, f"by {library or 'Triton, compiled when first called'}")


def _build_plugin(versions: dict[str, str | None]) -> Ability:
    name, what = "build-plugin", "compile the plugin and the CUDA kernels"
    for tool, fix in (("cmake", "pip install cmake"), ("g++", "install g++, such as by apt install g++")):
        if versions[tool] is None:
            return Ability(name, what, False, f"without {tool}", fix)
    if versions["nvcc"] is not None:
        return Ability(name, what, True, f"nvcc {versions['nvcc']}")
    if versions["triton"] is not None and importlib.util.find_spec("nvidia") is not None:
        return Ability(name, what, True, f"Triton {versions['triton']} and pip's CUDA runtime, without nvcc")
    return Ability(name, what, False, "without nvcc", "pip install triton nvidia-cuda-runtime nvidia-cuda-crt")
