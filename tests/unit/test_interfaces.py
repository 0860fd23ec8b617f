"""What the public interfaces keep to: types, few positional parameters, fixes as data, no command's words in the library."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import lccl
from conftest import ROOT
from lccl.command_line import option
from lccl.errors import Fix, UserError, leave_out, spelled

PACKAGE = ROOT / "exporter" / "lccl"
PARSERS = ("export", "build_engine", "compare", "build_plugin")
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
    """All but the commands."""
    commands = ("__main__.py", "command_line.py")
    return [p for p in PACKAGE.rglob("*.py") if "cli" not in p.relative_to(PACKAGE).parts and p.name not in commands]


PROGRAMS = {"--build", "--parallel", "--list-gpu-arch"}
"""Options of programs that the library itself runs: CMake, nvcc."""


def test_the_library_does_not_speak_a_commands_words() -> None:
    for path in library_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in PROGRAMS:
                assert not re.search(r"(^|[\s(\"'`])--([a-z]|$)", node.value), f"{path}:{node.lineno}: {node.value[:80]}"


def fixes() -> set[str]:
    """The options that the library's fixes name."""
    found = set()
    for path in library_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Fix", "leave_out"):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(first.value)
    keys = {"state_dict_key", "baseline_state_dict_key"}
    return found | keys | {"factory", "baseline_factory", "dynamic_hw", "input_names", "output_names"}


PYTHON_ONLY = {"input_names", "output_names"}


def test_each_fix_is_an_option_of_a_command_and_a_keyword_in_python() -> None:
    options = {
        word for name in PARSERS for a in import_module(f"lccl.cli.{name}").parser()._actions for word in a.option_strings
    }
    functions = (
        lccl.export,
        lccl.compare,
        lccl.build_engine,
        lccl.load_checkpoint,
        import_module("lccl.backends.tensorrt.compiler").build_plugin,
    )
    keywords = {name for function in functions for name in inspect.signature(function).parameters}
    keywords |= {field.name for kind in (lccl.Limits, lccl.LatencyPlan) for field in dataclasses.fields(kind)}
    found = fixes()
    assert len(found) > 15
    assert found <= keywords
    for name in found - PYTHON_ONLY - {"precision"}:
        assert option(Fix(name, name != "plugin")).split()[0] in options, name
    assert {option(Fix("precision", value)) for value in ("fp16", "bf16")} <= options


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
