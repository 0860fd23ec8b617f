"""Finding the CPU op's library, sessions with it and without, and what `python -m lccl.ort` tells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnxruntime
import pytest

import lccl
import lccl.ort
from conftest import ROOT
from lccl.backends.onnxruntime import library as op_library
from lccl.backends.onnxruntime import session as op_session
from lccl.backends.onnxruntime.library import ENVIRONMENT, LIBRARY, check_library, cpu_isa, find_library
from lccl.command_line import execute
from lccl.graph.intake import has_nodes
from lccl.ort import __main__ as command
from support.cases.op_cases import CASES
from support.graphs.models import case_model

TAKES_NOTHING = """
const void* RegisterCustomOps(void* options, const void* api) { return 0; }
const char* lccl_ort_describe(void) { return "portable"; }
"""
"""A library that ONNX Runtime takes and that has no op."""
OTHER = "int other(void) { return 1; }\n"


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine where none was built."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(op_library, "PACKAGED", tmp_path / "package" / LIBRARY)
    monkeypatch.setattr(op_session, "_warned", set())


def compiled(source: str, path: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: libraries that stand for others are compiled")
    path.with_suffix(".c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c"))], check=True)
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return compiled(TAKES_NOTHING, tmp_path / "libempty.so")


@pytest.fixture
def gated(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """One node with its function, and a feed."""
    model, feed = case_model(CASES[0])
    onnx.save(model, tmp_path / "gated.onnx")
    return tmp_path / "gated.onnx", feed


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A model without an LCCLConv node."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


# ---- finding --------------------------------------------------------------------------------------------------------


def test_where_the_library_is_looked_for(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    assert find_library() is None
    with pytest.raises(
        lccl.UserError, match=f"there is no {LIBRARY}: install .* g\\+\\+ and CMake .*, or name one in {ENVIRONMENT}"
    ):
        lccl.ort.library_path()
    op_library.PACKAGED.parent.mkdir()
    op_library.PACKAGED.write_bytes(b"")
    assert lccl.ort.library_path() == op_library.PACKAGED
    monkeypatch.setenv(ENVIRONMENT, str(empty))
    assert lccl.ort.library_path() == empty
    assert find_library(op_library.PACKAGED) == op_library.PACKAGED
    monkeypatch.chdir(empty.parent)
    monkeypatch.setenv(ENVIRONMENT, empty.name)
    assert lccl.ort.library_path() == empty, "the system's loader looks for a bare name elsewhere"
    monkeypatch.setenv(ENVIRONMENT, "absent.so")
    with pytest.raises(lccl.UserError, match=rf"no such file: absent\.so, which {ENVIRONMENT} names"):
        lccl.ort.library_path()


def test_what_onnx_runtime_takes(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = check_library()
    assert not missing
    assert missing.path is None
    assert f"there is no {LIBRARY}" in missing.reason
    assert check_library(empty) == lccl.ort.LibraryCheck(empty)
    text = tmp_path / "text.so"
    text.write_text("not a library")
    for path in (text, compiled(OTHER, tmp_path / "other.so")):
        refused = check_library(path)
        assert not refused
        assert f"ONNX Runtime {onnxruntime.__version__} does not take {path}" in refused.reason
        assert f"is it {LIBRARY}, built for this machine?" in refused.reason
    monkeypatch.setenv(ENVIRONMENT, str(text))
    assert check_library().reason.endswith(f"built for this machine? {ENVIRONMENT} names it: unset that")
    monkeypatch.setattr(onnxruntime, "__version__", "1.19.2")
    assert "ONNX Runtime 1.19.2 is older than 1.20: pip install -U onnxruntime" in check_library(empty).reason


def test_the_instruction_set(empty: Path, tmp_path: Path) -> None:
    assert cpu_isa() is None
    assert cpu_isa(empty) == "portable"
    assert cpu_isa(compiled(OTHER, tmp_path / "other.so")) is None


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_without_the_library_it_warns_once_and_runs(gated: tuple[Path, dict[str, Any]]) -> None:
    path, feed = gated
    with pytest.warns(RuntimeWarning, match=f"compute every pixel, through the op's function: there is no {LIBRARY}") as caught:
        session = lccl.ort.session(path)
    assert [w.filename for w in caught] == [__file__], "the caller's line"
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, feed)
    np.testing.assert_array_equal(session.run(None, feed)[0], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lccl.ort.session(path)
        lccl.ort.session(onnx.load(path), library=path.with_name("gated.onnx"))


def test_a_library_that_is_refused_is_done_without(gated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    other = compiled(OTHER, tmp_path / "other.so")
    with pytest.warns(RuntimeWarning, match=rf"does not take {other}"):
        session = lccl.ort.session(gated[0], library=other)
    assert np.isfinite(session.run(None, gated[1])[0]).all()


def test_a_library_is_registered(gated: tuple[Path, dict[str, Any]], empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has no op leaves the function to ONNX Runtime, and nobody is warned."""
    monkeypatch.setenv(ENVIRONMENT, str(empty))
    registered = []
    options = onnxruntime.SessionOptions
    monkeypatch.setattr(
        onnxruntime,
        "SessionOptions",
        type("Watched", (options,), {"register_custom_ops_library": lambda self, path: registered.append(path)}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lccl.ort.session(gated[0])
    assert registered == [str(empty)] * 2, "tried on options that are thrown away, then on the session's"


def test_a_model_without_gates(plain: Path, empty: Path) -> None:
    """Nothing is lost there, so there is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for library in (None, empty):
            session = lccl.ort.session(plain, library=library)
            assert list(session.run(None, {"x": np.array([-1, 2], np.float32)})[0]) == [0, 2]


def test_options_of_the_caller(plain: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    assert lccl.ort.session(plain, options=options).get_session_options().intra_op_num_threads == 2
    assert lccl.ort.session(plain, options=options, threads=1).get_session_options().intra_op_num_threads == 1
    assert lccl.ort.session(plain, providers=["CPUExecutionProvider"]).get_providers() == ["CPUExecutionProvider"]
    assert lccl.ort.session(plain, providers="CPUExecutionProvider").get_providers() == ["CPUExecutionProvider"]
    for wrong in (0, 1.5, "2"):
        with pytest.raises(lccl.UserError, match=f"threads takes a whole number from 1 to 1024 or None, not {wrong!r}"):
            lccl.ort.session(plain, threads=wrong)  # type: ignore[arg-type]


def test_what_is_no_model(tmp_path: Path, gated: tuple[Path, dict[str, Any]]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(lccl.UserError, match=r"ONNX Runtime cannot load .*bad\.onnx: "):
        lccl.ort.session(tmp_path / "bad.onnx")
    with pytest.raises(lccl.UserError, match=r"no such file: absent\.onnx"):
        lccl.ort.session("absent.onnx")
    with pytest.raises(lccl.UserError, match="is not a file"):
        lccl.ort.session(tmp_path)
    with pytest.raises(lccl.UserError, match=r"no such file: absent\.so"):
        lccl.ort.session(gated[0], library="absent.so")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, Path, str, onnx.load_from_string])
def test_a_model_in_any_form_that_onnx_runtime_takes(gated: tuple[Path, dict[str, Any]], kind: Any) -> None:
    path, feed = gated
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, feed)
    with pytest.warns(RuntimeWarning, match="compute every pixel"):
        session = lccl.ort.session(kind(path if kind in (Path, str) else path.read_bytes()))
    np.testing.assert_array_equal(session.run(None, feed)[0], expected)


def test_a_path_object_of_another_library(plain: Path) -> None:
    class Elsewhere:
        def __fspath__(self) -> str:
            return str(plain)

    assert lccl.ort.session(Elsewhere()).get_inputs()[0].name == "x"


@pytest.mark.parametrize("wrong", [None, 3, ["model.onnx"], {"model": 1}, np.zeros(4), onnx.GraphProto()])
def test_what_is_no_form_of_a_model(wrong: Any) -> None:
    with pytest.raises(lccl.UserError, match=r"^model takes the path of a file, its bytes or an ONNX model, not "):
        lccl.ort.session(wrong)


@pytest.mark.parametrize("content", [b"x" * 10**6, b"LCCLConv" * 10**5])
def test_no_message_holds_a_whole_model(content: bytes) -> None:
    with pytest.raises(lccl.UserError, match="ONNX Runtime cannot load the model: ") as caught:
        lccl.ort.session(content)
    assert len(str(caught.value)) < 500


def test_the_function_under_another_name(gated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Nodes of the op are opened, from a file with its weights beside it too, and the file stays as it is."""
    path, feed = gated
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, feed)
    renamed = onnx.compose.add_prefix(onnx.load(path), "net_", rename_inputs=False, rename_outputs=False)
    onnx.save(renamed, tmp_path / "one.onnx")
    beside = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save(onnx.load(tmp_path / "one.onnx"), tmp_path / "two.onnx", **beside)
    for given in (renamed, tmp_path / "one.onnx", (tmp_path / "one.onnx").read_bytes(), tmp_path / "two.onnx"):
        op_session._warned.clear()
        with pytest.warns(RuntimeWarning, match="compute every pixel, through the op's function"):
            session = lccl.ort.session(given)
        np.testing.assert_array_equal(session.run(None, feed)[0], expected)


def test_nodes_that_a_tool_replaced_are_told_once(gated: tuple[Path, dict[str, Any]], empty: Path) -> None:
    flat = onnx.inliner.inline_local_functions(onnx.load(gated[0]))
    for library in (None, empty):
        op_session._warned.clear()
        with pytest.warns(RuntimeWarning, match="a tool has put standard ops in their place") as caught:
            lccl.ort.session(flat, library=library)
        assert [w.filename for w in caught] == [__file__], "the caller's line, and nothing else to say"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lccl.ort.session(flat.SerializeToString(), library=library)


def test_gated_layers_inside_of_others_are_seen(gated: tuple[Path, dict[str, Any]]) -> None:
    """In a branch, and in a function of the model's own."""
    model = onnx.load(gated[0])
    (node,) = model.graph.node
    branch = onnx.helper.make_graph([node], "branch", [], model.graph.output)
    inside = onnx.ModelProto()
    inside.graph.node.append(onnx.helper.make_node("If", ["condition"], ["Y"], then_branch=branch, else_branch=branch))
    wrapped = onnx.ModelProto()
    wrapped.graph.node.append(onnx.helper.make_node("Wrapped", ["X"], ["Y"], domain="own"))
    assert not has_nodes(wrapped)
    wrapped.functions.append(onnx.FunctionProto(name="Wrapped", domain="own", node=[node]))
    assert has_nodes(inside)
    assert has_nodes(wrapped)


def test_a_model_of_nodes_alone_needs_the_library() -> None:
    model, _ = case_model(CASES[0], function=False)
    with pytest.raises(lccl.UserError, match=rf"cannot load the model: .*\(there is no {LIBRARY}: install lccl again"):
        lccl.ort.session(model)


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report(empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute(command.command, []) == 1
    out = capsys.readouterr().out
    assert "library       none" in out
    assert f"{onnxruntime.__version__}: every pixel is computed, through the op's function: there is no {LIBRARY}" in out
    monkeypatch.setenv("LCCL_CPU_ISA", "portable")
    assert execute(command.command, ["--library", str(empty)]) == 0
    out = capsys.readouterr().out
    assert f"library       {empty}, {empty.stat().st_size:,} bytes" in out
    assert "CPU ISA       portable, as LCCL_CPU_ISA asks" in out
    assert execute(command.command, ["--library", str(compiled(OTHER, tmp_path / "other.so")), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["takes_library"], said["isa"], said["isa_asked"]) == (False, None, "portable")
    assert "does not take" in said["reason"]
    assert execute(command.command, ["--library", "absent.so"]) == 1
    assert "error: no such file: absent.so" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lccl.ort", "--json"], capture_output=True, text=True, check=False, cwd=ROOT)
    said = json.loads(done.stdout)
    assert said["lccl"] == lccl.__version__
    assert done.returncode == (0 if said["takes_library"] else 1)
    assert done.stderr == "warning: python -m lccl.ort is now lccl doctor; the old spelling goes away in 0.3\n"
