"""The plugin's library in the real plugin registries of TensorRT 10 and 11.

NVIDIA's lean wheels hold TensorRT's runtime and its registry, without a builder, and load without a GPU. Each version gets an
environment of its own in build/tensorrt, made once; without a package index the tests skip and say so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from lccl.backends.torch.cuda.interface import Dtype
from lccl.op.contract import ATTRIBUTES, OP_TYPE
from support.builds.cuda import why_no_cuda
from support.builds.trt import tensorrt_library
from support.cases.op_cases import CASES
from support.hosts.plugin import FIELD_TYPES, Layer, assert_close, by_tactic, fields_of, run

OWN_FIELDS = {"alias_residual": 5, "time_by_density": 5}
"""What the plugin takes besides the contract's attributes."""


@pytest.fixture(params=["emulated", "cuda"])
def library(request: pytest.FixtureRequest) -> Path:
    """The plugin over the emulated machine, and the real one; the latter skips where there is no nvcc."""
    if request.param == "cuda" and (why := why_no_cuda()):
        pytest.skip(why)
    return Path(request.getfixturevalue("trt_plugin" if request.param == "cuda" else "emulated_plugin"))


def ask(lean: Path, script: str) -> tuple[Any, str]:
    """What a script prints as JSON in a process of the environment's Python, and its stderr."""
    prologue = "import json\nimport numpy as np\nimport tensorrt_lean_bindings as trt\nregistry = trt.get_plugin_registry()\n"
    command = [str(lean / "bin" / "python"), "-c", prologue + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def loaded(library: Path) -> str:
    """The head of a script that has the plugin's creator."""
    return f"""
assert registry.load_library({str(library)!r}) is not None
creator = registry.get_creator("LCCLConv", "1", "")
"""


def test_the_registry_holds_the_creator(lean: Path, library: Path) -> None:
    said, _ = ask(
        lean,
        loaded(library)
        + """
names = [[c.name, c.plugin_version, c.plugin_namespace] for c in registry.all_creators]
print(json.dumps({
    "found": names.count(["LCCLConv", "1", ""]),
    "kind": type(creator).__name__,
    "fields": {f.name: int(f.type) - 0 for f in creator.field_names},
    "version": trt.__version__,
}))
""",
    )
    assert said["version"] == lean.name
    assert said["found"] == 1
    assert said["kind"] == "IPluginCreatorV3One"
    assert said["fields"] == {spec.name: FIELD_TYPES[spec.kind] for spec in ATTRIBUTES} | OWN_FIELDS


CREATE = """
fields = {fields}
def create(phase, **changes):
    # pads=None leaves that field out
    given = {{**fields, **changes}}
    views, kept = [], []
    for name, value in given.items():
        if value is None:
            continue
        kind, number = value
        data = number.encode() if kind == 6 else np.array(number, np.int32 if kind == 5 else np.float32)
        kept.append(data)
        views.append(trt.PluginField(name, data, {{5: trt.PluginFieldType.INT32, 1: trt.PluginFieldType.FLOAT32, 6: trt.PluginFieldType.CHAR}}[kind]))
    return creator.create_plugin("layer7", trt.PluginFieldCollection(views), phase)
BUILD, RUNTIME = trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME
"""


def create_script() -> str:
    attributes = CASES[0].attributes
    fields = {
        spec.name: (FIELD_TYPES[spec.kind], [*v] if isinstance(v := getattr(attributes, spec.name), tuple) else [v])
        for spec in ATTRIBUTES
    }
    texts = {spec.name: (6, getattr(attributes, spec.name)) for spec in ATTRIBUTES if spec.kind == "string"}
    return CREATE.format(fields={**fields, **texts})


def test_plugins_are_created_for_both_phases(lean: Path, library: Path) -> None:
    said, messages = ask(
        lean,
        loaded(library)
        + create_script()
        + """
built = create(BUILD)
run = create(RUNTIME, alias_residual=(5, [0]), time_by_density=(5, [0]), planned_device=(5, [90, 132, 232448, 233472]), workspace_bytes=(5, [0, 1]))
kinds = (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME)
print(json.dumps({
    "built": [type(built.get_capability_interface(k)).__name__ for k in kinds],
    "run": [type(run.get_capability_interface(k)).__name__ for k in kinds],
    "name": built.get_capability_interface(kinds[0]).plugin_name,
}))
""",
    )
    expected = ["IPluginV3OneCore", "IPluginV3OneBuildV2", "IPluginV3OneRuntime"]
    assert said["built"] == said["run"] == expected
    assert said["name"] == OP_TYPE
    assert messages == ""


def test_wrong_and_missing_fields_are_refused_with_a_sentence(lean: Path, library: Path) -> None:
    said, messages = ask(
        lean,
        loaded(library)
        + create_script()
        + """
print(json.dumps([
    create(BUILD, pads=None) is None,
    create(BUILD, density=(1, [2.0])) is None,
    create(BUILD, strides=(1, [1.0, 1.0])) is None,
    create(BUILD, groups=(5, [2])) is None,
    create(RUNTIME) is None,
    create(RUNTIME, alias_residual=(5, [0]), time_by_density=(5, [0]), planned_device=(5, [0, 0, 0, 0]), workspace_bytes=(5, [0, 1])) is None,
]))
""",
    )
    assert said == [True] * 6
    assert messages.splitlines() == [
        "LCCLConv layer7: field pads is missing: every attribute is written on every node",
        "LCCLConv layer7: density must be -1 or between 0 and 1",
        "LCCLConv layer7: field strides is of type INT32, not FLOAT32",
        "LCCLConv layer7: there is no field groups: the model is not of version 1 of the op",
        "LCCLConv layer7: field alias_residual is missing: the engine is of another version of the plugin, build it again",
        "LCCLConv layer7: planned_device is empty: the engine was not built with this plugin",
    ]


def test_the_report_of_what_is_here(lean: Path, library: Path) -> None:
    """``python -m lccl.plugin`` where TensorRT is."""
    done = subprocess.run(
        [str(lean / "bin" / "python"), "-m", "lccl.plugin", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "exporter"), "LCCL_TRT_PLUGIN": str(library)},
    )
    said = json.loads(done.stdout)
    (registry,) = said["registries"]
    assert (done.returncode, registry["version"], registry["holds_plugin"]) == (0, lean.name, True), registry
    assert said["library"] == str(library)


def test_a_whole_life_inside_tensorrt_s_process(lean: Path, registry_host: Path, emulated_plugin: Path, tmp_path: Path) -> None:
    """TensorRT's own registry loads the library and hands out the creator; the rest as under the sanitizers."""
    layers = [Layer.of(case, dtype) for case in CASES[:6] for dtype in (Dtype.FLOAT16, Dtype.FLOAT32)]
    answers, _ = run(registry_host, layers, tmp_path, tensorrt_library(lean), emulated_plugin)
    for layer, answer in zip(layers, answers, strict=True):
        assert answer.problem == "", layer.name
        for y in by_tactic(answer, "runtime").values():
            assert_close(layer, layer.output(y))


def test_the_logger_is_found_in_either_version(lean: Path, logger_probe: Path) -> None:
    """ILogger's and ILoggerFinder's tables have their function at another place in 11: the library has to see which it is in."""
    script = f"""
import ctypes
probe = ctypes.CDLL({str(logger_probe)!r})
registry.load_library({str(logger_probe)!r})  # refused, because it has no creator, after the finder was handed over
print(json.dumps(probe.lccl_probe_major_version()))
"""
    said, _ = ask(lean, script)
    assert said == int(lean.name.partition(".")[0])


def test_messages_go_through_either_version_s_logger(fake_tensorrt: Path, registry_host: Path, emulated_plugin: Path) -> None:
    command = [str(registry_host), "--logger", str(fake_tensorrt), str(emulated_plugin)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1 LCCLConv layer: field strides is missing: every attribute is written on every node\n"
    assert done.stderr == ""


def test_it_links_to_no_tensorrt(library: Path) -> None:
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
    allowed = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"}
    assert libraries <= allowed | {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_exported_symbols_are_the_list_s(library: Path) -> None:
    listed = set(re.findall(r"^\s+(\w+);$", (ROOT / "trt_plugin/plugin/exports.map").read_text(), re.MULTILINE))
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in symbols.splitlines()} == listed == {"getCreators", "setLoggerFinder"}


@pytest.mark.parametrize(("host", "plugin"), [("trt_host", ""), ("gpu_host", "trt_plugin")], ids=["emulated", "cuda"])
def test_fields_are_the_contract_s(request: pytest.FixtureRequest, host: str, plugin: str) -> None:
    """Names, order, types and defaults, as the creator lists them. The real library needs no GPU for it, either."""
    command = [str(request.getfixturevalue(host)), "--fields"]
    command += [str(request.getfixturevalue(plugin))] if plugin else []
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    contract = listed[: len(ATTRIBUTES)]
    for spec, field in zip(ATTRIBUTES, contract, strict=True):
        assert (field["name"], field["type"]) == (spec.name, FIELD_TYPES[spec.kind])
        if spec.kind == "string":
            assert bytes(field["values"]).rstrip(b"\0").decode() == spec.default
        else:
            assert tuple(field["values"]) == pytest.approx(spec.default if isinstance(spec.default, tuple) else (spec.default,))
    assert {field["name"]: field["type"] for field in listed[len(ATTRIBUTES) :]} == OWN_FIELDS
    assert set(fields_of(CASES[0].attributes)) == {spec.name for spec in ATTRIBUTES}
