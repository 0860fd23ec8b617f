"""What the public interfaces keep to: types, few positional parameters, fixes as data, no command's words in the library."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import lccl
from conftest import ROOT
from lccl.command_line import option
from lccl.errors import Fix, UserError, leave_out, spelled
from lccl.errors.user_error import OWNERS

PACKAGE = ROOT / "exporter" / "lccl"
POSITIONAL = 6


MODULES = ("lccl.data", "lccl.models.resnet")
"""Faces that are no packages."""


def faces() -> list[str]:
    """Every package of lccl that says what is public, and the modules that users import."""
    names = [m.name for m in pkgutil.walk_packages(lccl.__path__, "lccl.") if m.ispkg]
    return ["lccl", *MODULES, *(name for name in names if hasattr(import_module(name), "__all__"))]


def public_functions() -> Iterator[tuple[str, Any]]:
    """Functions of the faces, and methods of their classes."""
    for face in faces():
        module = import_module(face)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{face}.{name}", value
            elif inspect.isclass(value):
                for method, function in vars(value).items():
                    function = function.fget if isinstance(function, property) else function
                    own = inspect.isfunction(function) and (not method.startswith("_") or method in ("__init__", "__call__"))
                    if own and function.__module__.startswith("lccl"):
                        yield f"{face}.{name}.{method}", function


FUNCTIONS = dict(public_functions())


def test_the_faces_are_found() -> None:
    assert {"lccl", "lccl.nn", "lccl.ort", "lccl.plugin", "lccl.train", "lccl.engine", "lccl.comparing"} <= set(faces())
    assert {"lccl.export", "lccl.nn.convert", "lccl.ort.session", "lccl.nn.LCCLConv2d.forward"} <= set(FUNCTIONS)
    assert {"lccl.data.load_data", "lccl.models.resnet.cifar_resnet"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_public_function_takes_or_gives_any(name: str) -> None:
    function = inspect.unwrap(FUNCTIONS[name])
    for parameter, kind in function.__annotations__.items():
        assert not re.search(r"\bAny\b", str(kind)), f"{parameter}: {kind}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_few_parameters_are_positional(name: str) -> None:
    parameters = inspect.signature(inspect.unwrap(FUNCTIONS[name])).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"]
    assert len(positional) <= POSITIONAL or name.endswith("__init__"), positional


# ---- sentences ------------------------------------------------------------------------------------------------------------


def library_files() -> list[Path]:
    """All but the commands and what they share, and the program that the build of the kernels runs."""
    commands = ("__main__.py", "command_line.py", "ahead.py")
    return [p for p in PACKAGE.rglob("*.py") if "cli" not in p.relative_to(PACKAGE).parts and p.name not in commands]


PROGRAMS = {"--build", "--parallel", "--list-gpu-arch", "--version"}
"""Options of programs that the library itself runs: CMake, nvcc, g++."""


def test_the_library_does_not_speak_a_commands_words() -> None:
    for path in library_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in PROGRAMS:
                assert not re.search(r"(^|[\s(\"'`])--([a-z]|$)", node.value), f"{path}:{node.lineno}: {node.value[:80]}"


COMPILER = import_module("lccl.backends.tensorrt.compiler")
FUNCTIONS_OF = {
    "export()": lccl.export,
    "compare()": lccl.compare,
    "build_engine()": lccl.build_engine,
    "build_plugin()": COMPILER.build_plugin,
    "load_checkpoint()": lccl.load_checkpoint,
    "tune()": lccl.tune,
    "inspect()": lccl.inspect,
    "convert()": lccl.nn.convert,
    "time_budget()": lccl.train.time_budget,
}
COMMANDS_OF = {
    "lccl export": ("export", ["m.pt", "-o", "m.onnx"]),
    "lccl compare": ("compare", ["m.onnx", "--data", "x.npz"]),
    "lccl build-engine": ("build_engine", ["m.onnx"]),
    "lccl build-plugin": ("build_plugin", []),
    "lccl measure": ("measure", ["m.onnx", "-o", "costs.json"]),
    "lccl inspect": ("inspect", ["m.onnx"]),
    "lccl tune": ("tune", ["m.onnx", "-o", "n.onnx", "--data", "x.npz"]),
}
"""The module of a command, and the words that it cannot do without."""
EXPORT, COMPARE = ("export()", "lccl export"), ("compare()", "lccl compare")
ENGINE, PLUGIN = ("build_engine()", "lccl build-engine"), ("build_plugin()", "lccl build-plugin")
TUNE = ("tune()", "lccl tune")
LOAD = ("load_checkpoint()", "lccl export", *COMPARE)
RAISED_FROM = {
    "backends/profiles.py": ENGINE,
    "backends/tensorrt/api.py": ENGINE,
    "backends/tensorrt/builder.py": ENGINE,
    "backends/tensorrt/compiler.py": PLUGIN,
    "backends/tensorrt_rtx/builder.py": ENGINE,
    "cli/export.py": ("lccl export",),
    "comparing/candidates.py": COMPARE,
    "comparing/comparer.py": COMPARE,
    "comparing/limits.py": COMPARE,
    "comparing/measure.py": COMPARE,
    "comparing/requirements.py": COMPARE,
    "engine/build.py": ENGINE,
    "engine/for_onnxruntime.py": ENGINE,
    "exporting/checking.py": EXPORT,
    "exporting/example.py": ("lccl export",),
    "exporting/exporter.py": EXPORT,
    "exporting/gate_search.py": EXPORT,
    "exporting/torch_reference.py": EXPORT,
    "exporting/torch_source.py": EXPORT,
    "exporting/unchecked.py": ("lccl measure", "inspect()", "lccl inspect"),
    "forms/costs.py": ("convert()", "time_budget()", "tune()", "lccl tune", "inspect()", "lccl inspect"),
    "graph/variants/precision.py": ENGINE,
    "loading/checkpoint.py": LOAD,
    "loading/factory.py": LOAD,
    "loading/state_dict.py": LOAD,
    "loading/torch_file.py": LOAD,
    "nn/translate.py": EXPORT,
    "tuning/tuner.py": TUNE,
}
"""A module that makes a Fix -> the functions and commands whose callers read it. A new one has to be named here."""
ONLY_FOR = {
    "input_names": ("export()",),
    "output_names": ("export()",),
    "baseline_factory": COMPARE,
    "baseline_state_dict_key": COMPARE,
    "baseline_state_dict_prefix": COMPARE,
}
"""Options that just these callers can have been given, whatever else the module serves."""
VARIABLES = {
    "f'{opening.option_prefix}{name}'": (
        *("factory", "state_dict_key", "state_dict_prefix"),
        *("baseline_factory", "baseline_state_dict_key", "baseline_state_dict_prefix"),
    ),
    "factory_option": ("factory", "baseline_factory"),
    "given": (
        *(
            "min_shapes",
            "max_shapes",
            "precision",
            "workspace",
            "timing_cache",
            "compute_capabilities",
            "plugin",
            "plugin_library",
        ),
        *("alias_residual", "tf32", "data", "gate", "baseline", "threads", "batch"),
    ),
    "key_option": ("state_dict_key", "baseline_state_dict_key"),
    "name": ("dynamic_hw", "input_names", "output_names"),
    "option": ("factory", "baseline_factory"),
    "weights.prefix_option": ("state_dict_prefix", "baseline_state_dict_prefix"),
}
"""What a Fix names by an expression."""
SAMPLES: dict[str, object] = {
    "args": (1, 3, 8, 8),
    "batch": 1,
    "latency": None,
    "min_baseline_agreement": 0.5,
    "opt_shapes": {"x": (1, 3)},
    "compute_capabilities": ("8.9",),
    "gate": "all",
    "max_shapes": {"x": (1, 3)},
    "min_shapes": {"x": (1, 3)},
    "threads": 1,
    "workspace": 1,
    "max_metric_drop": 0.5,
    "plugin": False,
    "points": 10,
    "precision": "fp16",
    **dict.fromkeys(("dynamic_hw", "alias_residual", "tf32"), True),
}
"""Values of options whose Fix computes its own; what is not here is text."""


def fixes_of(path: Path) -> Iterator[Fix]:
    """Every Fix that a file makes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Fix", "leave_out")):
            continue
        given: dict[str, ast.expr] = dict(zip(("option", "value"), node.args, strict=False))
        given |= {str(keyword.arg): keyword.value for keyword in node.keywords}
        first = given["option"]
        owner = ast.literal_eval(given["owner"]) if "owner" in given else ""
        for name in (first.value,) if isinstance(first, ast.Constant) else VARIABLES[ast.unparse(first)]:
            if node.func.id == "leave_out" or "leave_out" in given:
                yield leave_out(str(name))
                continue
            value = SAMPLES.get(str(name), "X")
            with contextlib.suppress(ValueError):  # computed where it is made
                value = ast.literal_eval(given["value"]) if "value" in given else True
            yield Fix(str(name), value, owner=owner)


FIXES = [
    (file, fix)
    for path in sorted(PACKAGE.rglob("*.py"))
    if (file := path.relative_to(PACKAGE).as_posix()) != "errors/user_error.py"
    for fix in fixes_of(path)
]


def require_takes(caller: str, fix: Fix) -> None:
    """Check that a caller can do what a fix says, in its own spelling."""
    if caller in FUNCTIONS_OF:
        keywords = inspect.signature(FUNCTIONS_OF[caller]).parameters
        assert (fix.owner or fix.option) in keywords, f"{caller} has no {fix}"
        if fix.owner:
            kind = getattr(lccl, OWNERS[fix.owner])
            assert fix.option in {field.name for field in dataclasses.fields(kind)}, f"{kind} has no {fix.option}"
        return
    module, needed = COMMANDS_OF[caller]
    whole = Fix(fix.option, SAMPLES.get(fix.option, "X")) if fix.leave_out else fix
    import_module(f"lccl.cli.{module}").parser().parse_intermixed_args([*needed, *shlex.split(option(whole))])


@pytest.mark.parametrize(("file", "fix"), FIXES, ids=lambda v: v if isinstance(v, str) else v.option)
def test_each_fix_is_one_for_everybody_who_reads_it(file: str, fix: Fix) -> None:
    for caller in RAISED_FROM[file]:
        if caller in ONLY_FOR.get(fix.option, (caller,)):
            require_takes(caller, fix)


def test_the_fixes_are_found() -> None:
    assert len({fix.option for _, fix in FIXES}) > 15
    assert {file for file, _ in FIXES} == set(RAISED_FROM)


@pytest.mark.parametrize(
    ("caller", "fix"),
    [
        ("export()", Fix("precision", "bf16")),
        ("lccl export", Fix("precision", "bf16")),
        ("compare()", Fix("min_speedup", 1.0)),
        ("compare()", Fix("batch", 1, owner="limits")),
        ("compare()", Fix("plugin", False)),
        ("lccl compare", Fix("min_speedup", "fast", owner="limits")),
        ("lccl build-engine", Fix("plugin_library", False)),
    ],
)
def test_a_fix_of_another_command_is_found_out(caller: str, fix: Fix) -> None:
    with pytest.raises((AssertionError, UserError)):
        require_takes(caller, fix)


@pytest.mark.parametrize(
    ("fix", "python", "command"),
    [
        (Fix("allow_skipped"), "allow_skipped=True", "--allow-skipped"),
        (Fix("plugin", False), "plugin=False", "--no-plugin"),
        (Fix("precision", "bf16"), "precision='bf16'", "--bf16"),
        (Fix("backend", "tensorrt"), "backend='tensorrt'", "--backend tensorrt"),
        (Fix("factory", "my net:f"), "factory='my net:f'", "--factory 'my net:f'"),
        (Fix("args", (1, 3, 8, 8)), "args=torch.zeros(1, 3, 8, 8)", "--input-shape 1x3x8x8"),
        (Fix("opt_shapes", {"x": (1, 3)}), "opt_shapes={'x': (1, 3)}", "--opt-shapes x:1x3"),
        (Fix("compute_capabilities", ("8.9",)), "compute_capabilities=('8.9',)", "--compute-capability 8.9"),
        (Fix("latency", None), "latency=None", "--runs 0"),
        (Fix("args", ("N", 3, "H", 8)), "args=torch.zeros(N, 3, H, 8)", "--input-shape Nx3xHx8"),
        (Fix("batch", 4, owner="latency"), "latency=lccl.LatencyPlan(batch=4)", "--batch 4"),
        (Fix("min_speedup", 1.0, owner="limits"), "limits=lccl.Limits(min_speedup=1.0)", "--min-speedup 1.0"),
        (leave_out("timing_cache"), "timing_cache", "--timing-cache"),
    ],
)
def test_each_interface_spells_a_fix_in_its_own_way(fix: Fix, python: str, command: str) -> None:
    assert (str(fix), option(fix)) == (python, command)


def test_an_error_says_its_fixes_behind_its_sentence() -> None:
    error = UserError(
        "it has no plugins", (leave_out("plugin_library"), Fix("backend", "tensorrt"), Fix("plugin", False, "to go on"))
    )
    assert str(error) == "it has no plugins: leave out plugin_library, or pass backend='tensorrt', or plugin=False to go on"
    said = "it has no plugins: leave out --plugin-library, or pass --backend tensorrt, or --no-plugin to go on"
    assert spelled(error.message, error.fixes, option) == said
    assert str(UserError("a sentence")) == "a sentence"


def handlers_of_user_errors(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
            caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            yield from [node] if caught & {"UserError", "ContractError", "NotSoundError"} else []


def test_no_sentence_has_an_errors_fix_in_its_midst() -> None:
    """A sentence around an error has its ``message``, and its ``fixes`` beside: ``str`` ends in them."""
    for path in PACKAGE.rglob("*.py"):
        for handler in handlers_of_user_errors(ast.parse(path.read_text())):
            for node in ast.walk(handler):
                inner = node.value if isinstance(node, ast.FormattedValue) else None
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "first_line"):
                    inner = node.args[0]
                assert not (isinstance(inner, ast.Name) and inner.id == handler.name), f"{path}:{node.lineno}"


def test_json_has_the_fix_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from lccl.command_line import execute

    def command(_: object) -> int:
        raise UserError("it cannot run", (Fix("allow_skipped"), leave_out("factory")))

    assert execute(command, ["--json"]) == 1
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert said["error"] == "it cannot run: pass --allow-skipped, or leave out --factory"
    assert captured.err == f"error: {said['error']}\n"
    assert (said["fix"]["option"], said["fix"]["value"]) == ("allow_skipped", True)
    assert said["other_fixes"][0]["leave_out"] is True
