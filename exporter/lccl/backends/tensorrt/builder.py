"""TensorRT 10.13+ and 11: the op by its plugin, or in standard ops without it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from lccl.backends.interface import BuildRequest, Built
from lccl.backends.profiles import make_profiles
from lccl.backends.tensorrt.api import (
    build_serialized,
    layer_paths,
    logger_of,
    make_config,
    parse,
    require_plugin_layers,
    set_profiles,
)
from lccl.backends.tensorrt.library import ENVIRONMENT, HOW_TO_GET, LIBRARY, find_plugin, load_plugin
from lccl.console.progress import Progress
from lccl.errors import Fix, UserError, leave_out
from lccl.errors.requires import how_to_install
from lccl.files import atomic_path, require_writable
from lccl.graph.checks import check_types
from lccl.graph.intake import LOST_NODES, has_lost_nodes
from lccl.graph.plugin_fields import residuals_in_place, with_plugin_fields
from lccl.graph.variants.inlined import inlined
from lccl.graph.variants.stripped import stripped
from lccl.op.onnx_op import is_lccl_node

ALIAS = leave_out("alias_residual")
MINIMUM = (10, 13)
MISSING = f"TensorRT is not installed: {how_to_install('tensorrt')} on a machine with an NVIDIA GPU"


def import_tensorrt() -> ModuleType:
    """The Python module of full TensorRT.

    Raises:
        UserError: it is not installed, only its runtime is, or it is too old.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError):  # OSError: its own libraries do not load
        raise UserError(MISSING) from None
    if not hasattr(trt, "Builder") or not hasattr(trt, "OnnxParser"):
        raise UserError(f"the installed TensorRT has no builder: {MISSING.partition(': ')[2]}")
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < MINIMUM:
        raise UserError(f"TensorRT {trt.__version__} is too old: this lccl needs 10.13 or newer")
    return trt


class TensorRT:
    """The builder of full TensorRT, for the GPU present.

    The network is strongly typed, as in TensorRT 11: the ONNX model decides the precision.
    """

    name = "tensorrt"

    def unavailable(self) -> str | None:
        try:
            import_tensorrt()
        except UserError as error:
            return error.message
        return None

    def build(self, request: BuildRequest, progress: Progress) -> Built:
        if request.compute_capabilities:
            raise UserError(
                "TensorRT builds for the GPU present", (leave_out("compute_capabilities"), Fix("backend", "tensorrt-rtx"))
            )
        trt = import_tensorrt()
        plugin = self._plugin(request)
        if request.alias_residual and plugin is None:
            raise UserError("only layers that the plugin runs can write over a residual, and there are none", ALIAS)
        if request.timing_cache is not None:
            require_writable(request.timing_cache)
        profiles = make_profiles(request)
        logger = logger_of(trt, request.verbose)
        if plugin is not None:
            load_plugin(plugin, tensorrt=trt)
        builder = trt.Builder(logger)
        config = make_config(trt, builder, request.workspace, request.tf32)
        cache = self._read_cache(config, request.timing_cache)
        progress("parsing")
        in_place = self._in_place(trt, request, config) if plugin is not None else ()
        view = self._plugin_view(request, in_place) if plugin is not None else inlined(request.model)
        network = parse(trt, builder, view, logger)
        if plugin is not None:
            require_plugin_layers(trt, network, view)
        set_profiles(builder, config, profiles)
        engine = build_serialized(trt, builder, network, config, logger, progress)
        if request.timing_cache is not None:
            self._write_cache(config, cache, request.timing_cache)
        path = "plugin" if plugin is not None else "inlined"
        layers = layer_paths(request.model, path, in_place)
        return Built(engine, trt.__version__, profiles, (), layers, plugin)

    @staticmethod
    def _plugin(request: BuildRequest) -> Path | None:
        if request.plugin and has_lost_nodes(request.model):
            raise UserError(
                f"{LOST_NODES}, which the plugin does not run; export the model again with lccl.export",
                Fix("plugin", False, "to build from them, which compute every pixel"),
            )
        if not request.plugin or not any(is_lccl_node(n) for n in request.model.graph.node):
            return None
        plugin = find_plugin(request.plugin_library)
        if plugin is None:
            raise UserError(
                f"the TensorRT plugin {LIBRARY} is not installed ({HOW_TO_GET}, or name it in {ENVIRONMENT})",
                (
                    Fix("plugin_library", "PATH"),
                    Fix("plugin", False, "to build from standard ops, which compute every pixel"),
                ),
            )
        return plugin

    @staticmethod
    def _in_place(trt: ModuleType, request: BuildRequest, config: Any) -> tuple[str, ...]:
        """Let TensorRT's plugins write over inputs.

        Returns:
        The outputs that may take their residual's memory.
        """
        if not request.alias_residual:
            return ()
        feature = getattr(getattr(trt, "PreviewFeature", None), "ALIASED_PLUGIN_IO_10_03", None)
        if feature is not None:
            config.set_preview_feature(feature, True)
        if feature is None or not config.get_preview_feature(feature):
            raise UserError(f"TensorRT {trt.__version__} does not let a plugin write over its input", ALIAS)
        return residuals_in_place(request.model)

    @staticmethod
    def _plugin_view(request: BuildRequest, in_place: tuple[str, ...]) -> onnx.ModelProto:
        view = stripped(request.model)
        check_types(request.model, view)
        return with_plugin_fields(view, in_place)

    @staticmethod
    def _read_cache(config: Any, path: Path | None) -> Any:
        if path is None:
            return None
        cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise UserError(
                f"{path} is not a timing cache of this TensorRT and GPU: delete it, or name another file",
                Fix("timing_cache", "FILE"),
            )
        return cache

    @staticmethod
    def _write_cache(config: Any, cache: Any, path: Path) -> None:
        current = config.get_timing_cache() or cache
        with atomic_path(path) as temporary:
            temporary.write_bytes(bytes(current.serialize()))
