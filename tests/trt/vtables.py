"""Tables of virtual functions that the plugin's classes get from TensorRT's interfaces, as g++ lays them out.

``python tests/trt/vtables.py INCLUDE`` prints those that come of NVIDIA's headers, as ``expected_vtables.json`` holds
them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EMULATED_CUDA = ROOT / "tests" / "emulator" / "include"
"""Stands for CUDA's headers, which need not be here: TensorRT's use few names of them."""

SOURCE = """
#include "creator.h"
#include "plugin.h"

namespace probe // what the plugin calls: classes that implement it, so that each place of a table has a name
{
struct Dimension : nvinfer1::apiv::VDimensionExpr
{
    bool isConstant() const override;
    int64_t getConstantValue() const override;
    bool isSizeTensor() const override;
};
struct Builder : nvinfer1::apiv::VExprBuilder
{
    nvinfer1::IDimensionExpr const* constant(int64_t) override;
    nvinfer1::IDimensionExpr const* operation(
        nvinfer1::DimensionOperation, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override;
    nvinfer1::IDimensionExpr const* declareSizeTensor(
        int32_t, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override;
};
} // namespace probe
"""
CLASSES = ("lccl::plugin::LCCLConvPlugin", "lccl::plugin::LCCLConvCreator", "probe::Dimension", "probe::Builder")
STRUCTS = (
    "Dims64",
    "PluginTensorDesc",
    "DynamicPluginTensorDesc",
    "PluginField",
    "PluginFieldCollection",
    "InterfaceInfo",
    "DimsExprs",
)


def own(plugin: Path = ROOT / "trt_plugin" / "plugin") -> dict[str, object]:
    """Of the project's declaration in a folder."""
    return layout(dump(plugin, "-DLCCL_TENSORRT_HEADERS=0", f"-I{EMULATED_CUDA}"))


def official(include: Path) -> dict[str, object]:
    """Of NVIDIA's headers."""
    return layout(
        dump(ROOT / "trt_plugin" / "plugin", "-DLCCL_TENSORRT_HEADERS=1", "-isystem", str(include), f"-I{EMULATED_CUDA}")
    )


def dump(plugin: Path, *options: str) -> str:
    """g++'s dump of all classes, names demangled.

    Args:
        plugin: folder of the plugin's sources.

    Raises:
        RuntimeError: it does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "classes.cpp"
        source.write_text(SOURCE)
        includes = [f"-I{plugin}", f"-I{ROOT}", f"-I{ROOT / 'trt_plugin' / 'kernel'}"]
        command = ["g++", "-std=c++17", "-c", "-fdump-lang-class", *includes, *options, str(source)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        (found,) = Path(folder).glob("*.class")
        text = found.read_text()
    # A thunk stands as its mangled name behind its class's.
    mangled = "\n".join(sorted(set(re.findall(r"\b_ZTh\w+", text))))
    plain = subprocess.run(["c++filt"], input=mangled, capture_output=True, text=True, check=True).stdout
    for name, words in zip(mangled.split(), plain.splitlines(), strict=True):
        text = text.replace(name, words)
    return text


def layout(text: str) -> dict[str, object]:
    """Class -> the names at the places of its table, struct -> bytes."""
    sizes = {name: int(size) for name, size in re.findall(r"^Class nvinfer1::(\w+)\n\s+size=(\d+)", text, re.MULTILINE)}
    return {"functions": {name: functions(text, name) for name in CLASSES}, "bytes": {name: sizes[name] for name in STRUCTS}}


def functions(text: str, name: str) -> list[str]:
    """What a table holds at each place: a function, or "-" where the part of another base begins."""
    match = re.search(rf"^Vtable for {re.escape(name)}\n.*?\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert match, f"no table of {name}"
    places = []
    for entry in re.findall(r"^\d+\s+(.*)$", match[1], re.MULTILINE):
        function = re.search(r"(~?\w+)(?:\([^()]*\)(?: const)?)?$", entry)
        places.append(function[1] if function and "::" in entry else "-")
    return places


if __name__ == "__main__":
    print(json.dumps(official(Path(sys.argv[1])), indent=1))
