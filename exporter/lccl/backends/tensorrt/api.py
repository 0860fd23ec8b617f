"""The Python API that TensorRT and TensorRT for RTX share: parse, configure, build, watch."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import ModuleType
from typing import Any

import onnx

from lccl.backends.interface import LayerPath, OptimizationProfile
from lccl.backends.tensorrt.parser_errors import listed, refusals
from lccl.console.progress import Progress
from lccl.errors import Fix, UserError, first_line
from lccl.op.contract import OP_TYPE
from lccl.op.onnx_op import is_lccl_node

VERBOSE = Fix("verbose", True, "to see the builder's own messages")
_loggers: dict[tuple[str, bool], Any] = {}


def label(trt: ModuleType) -> str:
    """The product behind a module of that name."""
    return "TensorRT for RTX" if "rtx" in trt.__name__ else "TensorRT"


def logger_of(trt: ModuleType, verbose: bool) -> Any:
    """One logger per runtime and verbosity: a runtime warns when it meets a second one."""
    key = (trt.__name__, verbose)
    if key not in _loggers:

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            """Keeps errors for the message to the user; prints the rest when asked to."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.errors: list[str] = []

            def log(self, severity: Any, text: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    self.errors.append(text)
                if verbose:
                    print(f"[{label(trt)}] {text}", file=sys.stderr)

        _loggers[key] = Logger()
    logger = _loggers[key]
    logger.errors.clear()
    return logger


def parse(trt: ModuleType, builder: Any, model: onnx.ModelProto, logger: Any) -> Any:
    """Parse the model into a strongly typed network definition, the only kind in newer versions.

    Raises:
        UserError: the parser refuses it.
    """
    flags = 0
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if typed is not None:
        flags |= 1 << int(typed)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        said, found = plugin_error(logger), refusals(parser, model)
        if said is None and found:
            said = f"{listed(found)}; export the network without what is refused, or run it in ONNX Runtime"
        error = UserError(f"{label(trt)} cannot read the model: {said or 'no reason given'}")
        error.details = {"refused": [asdict(refusal) for refusal in found]}
        raise error
    return network


def plugin_error(logger: Any) -> str | None:
    """The plugin's own message, "LCCLConv <layer>: ...".

    It comes before the runtime's more general one.
    """
    return next((first_line(ValueError(text)) for text in logger.errors if f"{OP_TYPE} " in text), None)


def make_config(trt: ModuleType, builder: Any, workspace: int | None, tf32: bool) -> Any:
    """A builder configuration.

    Without ``tf32`` float32 convolutions are computed in float32, so that no gate flips by a
    rounding to TF32.
    """
    config = builder.create_builder_config()
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    return config


def set_profiles(builder: Any, config: Any, profiles: tuple[OptimizationProfile, ...]) -> None:
    """One optimization profile with every dynamic input.

    Raises:
        UserError: the builder refuses it.
    """
    if profiles:
        profile = builder.create_optimization_profile()
        for p in profiles:
            profile.set_shape(p.input, p.min, p.opt, p.max)
        if config.add_optimization_profile(profile) < 0:
            names = ", ".join(p.input for p in profiles)
            raise UserError(f"the builder refuses the shapes of {names}", VERBOSE)


def build_serialized(trt: ModuleType, builder: Any, network: Any, config: Any, logger: Any, progress: Progress) -> bytes:
    """Build the engine; its bytes.

    Raises:
        UserError: the builder failed, with its reason.
    """
    monitor = make_monitor(trt, progress)
    config.progress_monitor = monitor
    with _cancelling(monitor):
        engine = builder.build_serialized_network(network, config)
    if monitor.cancelled:
        raise KeyboardInterrupt
    if engine is None:
        turing = any("Turing" in text for text in logger.errors)
        hint = "; compute capability 7.5 has no float32 here" if turing else ""
        last = first_line(ValueError(logger.errors[-1])) if logger.errors else "no reason given"
        reason = plugin_error(logger) or last
        fix = [Fix("precision", "fp16")] if turing else [] if logger.errors else [VERBOSE]
        raise UserError(f"{label(trt)} cannot build this engine: {reason}{hint}", fix)
    return bytes(engine)


@contextmanager
def _cancelling(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C ask the builder to stop.

    An exception must not be thrown into the builder's own frames.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(*_: object) -> None:
        monitor.cancelled = True

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def make_monitor(trt: ModuleType, progress: Progress) -> Any:
    """An IProgressMonitor that reports "phase, step i of n".

    Ctrl-C cancels the build at the next step.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.cancelled = False

        def phase_start(self, phase_name: str, _parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._guard(lambda: progress(phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guard(lambda: progress(phase_name, step + 1, self.steps.get(phase_name)))
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def _guard(self, report: Callable[[], None]) -> None:
            try:
                report()
            except KeyboardInterrupt:
                self.cancelled = True

    return Monitor()


def layer_paths(model: onnx.ModelProto, lccl_path: str, in_place: Collection[str] = ()) -> tuple[LayerPath, ...]:
    """Every node of the canonical model, and how it went into the engine.

    Args:
        model: the canonical model.
        lccl_path: how the LCCLConv nodes went in.
        in_place: outputs that take the memory of their residual.
    """

    def path(node: onnx.NodeProto) -> str:
        if not is_lccl_node(node):
            return "native"
        return f"{lccl_path}, residual in place" if node.output[0] in in_place else lccl_path

    return tuple(
        LayerPath(node.name or node.output[0], node.op_type, path(node))
        for node in model.graph.node
        if node.op_type != "Constant"
    )


def parse_capability(text: str) -> tuple[int, int]:
    """ "8.9" -> (8, 9).

    Raises:
        UserError: another form.
    """
    major, dot, minor = text.partition(".")
    if not (dot and text.isascii() and major.isdecimal() and minor.isdecimal()):
        raise UserError(f"a compute capability is written like 8.9, not {text!r}")
    return int(major), int(minor)


def count_plugin_layers(trt: ModuleType, network: Any) -> int:
    """Count the plugin layers of a parsed network.

    They show that the parser took the plugin and not the function.
    """
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    return sum(kind == trt.LayerType.PLUGIN_V3 for kind in kinds)


def require_plugin_layers(trt: ModuleType, network: Any, model: onnx.ModelProto) -> None:
    """Check that the parser took the plugin for every LCCLConv.

    Raises:
        UserError: it did not.
    """
    wanted = sum(is_lccl_node(n) for n in model.graph.node)
    found = count_plugin_layers(trt, network)
    if found < wanted:
        raise UserError(
            f"the parser took the plugin for {found} of {wanted} {OP_TYPE} layers", Fix("plugin", False, "to build without it")
        )
