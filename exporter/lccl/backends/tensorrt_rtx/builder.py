"""Engines of TensorRT for RTX, built ahead of time and without a GPU.

TensorRT for RTX has no plugins, so the op goes in as standard ops.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from lccl.backends.interface import BuildRequest, Built
from lccl.backends.profiles import make_profiles
from lccl.backends.tensorrt.api import (
    build_serialized,
    layer_paths,
    logger_of,
    make_config,
    parse,
    parse_capability,
    set_profiles,
)
from lccl.console.progress import Progress
from lccl.errors import Fix, UserError, leave_out
from lccl.errors.requires import how_to_install
from lccl.graph.variants.inlined import inlined

MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
"""The meta package and the bindings it stands for; either will do."""
USE_TENSORRT = Fix("backend", "tensorrt")
MISSING = f"TensorRT for RTX is not installed: {how_to_install('tensorrt_rtx')}"


def import_rtx() -> ModuleType:
    """The Python module of TensorRT for RTX.

    Raises:
        UserError: it is not installed.
    """
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError):  # OSError: its own libraries do not load
            continue
        if hasattr(module, "Builder"):
            return module
    raise UserError(MISSING)


class TensorRTRTX:
    """The builder of TensorRT for RTX, for the compute capabilities asked for.

    Networks are strongly typed: the ONNX model decides the precision.
    """

    name = "tensorrt-rtx"

    def unavailable(self) -> str | None:
        try:
            import_rtx()
        except UserError as error:
            return error.message
        return None

    def build(self, request: BuildRequest, progress: Progress) -> Built:
        if request.timing_cache is not None:
            raise UserError("TensorRT for RTX has no timing cache", (leave_out("timing_cache"), USE_TENSORRT))
        if request.plugin_library is not None:
            raise UserError("TensorRT for RTX has no plugins", (leave_out("plugin_library"), USE_TENSORRT))
        if request.alias_residual:
            raise UserError("TensorRT for RTX has no plugins", (leave_out("alias_residual"), USE_TENSORRT))
        trt = import_rtx()
        profiles = make_profiles(request)
        logger = logger_of(trt, request.verbose)
        builder = trt.Builder(logger)
        config = make_config(trt, builder, request.workspace, request.tf32)
        self._set_capabilities(trt, config, request.compute_capabilities)
        progress("inlining the op's function")
        view = inlined(request.model)
        progress("parsing")
        network = parse(trt, builder, view, logger)
        set_profiles(builder, config, profiles)
        engine = build_serialized(trt, builder, network, config, logger, progress)
        return Built(engine, trt.__version__, profiles, request.compute_capabilities, layer_paths(request.model, "inlined"))

    @staticmethod
    def _set_capabilities(trt: ModuleType, config: Any, capabilities: tuple[str, ...]) -> None:
        known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
        config.num_compute_capabilities = len(capabilities)
        for i, text in enumerate(capabilities):
            major, minor = parse_capability(text)
            name = f"SM{major}{minor}"
            if name not in known:
                choices = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in known)
                raise UserError(f"TensorRT for RTX {trt.__version__} builds for {choices}, not for {text}")
            config.set_compute_capability(known[name], i)
