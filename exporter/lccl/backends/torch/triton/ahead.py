"""The Triton kernels compiled ahead of time: cubins, and how each takes its parameters.

CMake runs this file as a program. It writes ``cubins.bin``, the compiled kernels one behind the
other, and ``cubins.cpp``, which puts that file into a library with a table: which kernel each cubin
is, its shared memory and warps, and the place of every parameter. The places come from the cubin
itself, since architectures differ in them.

Triton is imported only where something is compiled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lccl.backends.torch.triton.configurations import (
    BOXES_ON_BLACKWELL,
    CONFIGURATIONS,
    PROGRAMMATIC_LAUNCH,
    SIDE,
    Configuration,
    misfit,
)
from lccl.errors import first_line

Dtype = Literal["float16", "bfloat16", "float32"]
Kernel = Literal["gate", "rows", "boxes", "close"]
Kind = Literal["pointer", "descriptor", "size", "long_size", "stride", "flag", "i32", "i64", "f32", "scratch"]
DTYPES: tuple[Dtype, ...] = ("float16", "bfloat16", "float32")
HELPER_TILE = (64, 64)
"""Cells or pixels, and channels, of the tiles of gate and close."""
NARROW = 16
"""Channels of x of a step where they lie apart: in NCHW."""
GENERAL_TILE = "rows_64x32"
"""The configuration that takes any number of channels, float32 and NCHW, too."""
_SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
FUNCTIONS: dict[Kernel, str] = {"gate": "gate_cells", "rows": "conv_rows", "boxes": "conv_boxes", "close": "close_pixels"}
_FLOATS = ("slope", "bound", "threshold", "simulated", "alpha", "post_alpha", "dense_share")
_WIDE = ("x_image", "x_pixel", "x_channel", "y_image", "y_pixel", "y_channel")
POINTERS = {
    **dict.fromkeys(("gate_b", "bias", "scale", "offset", "gmap"), "*fp32"),
    **dict.fromkeys(("cells", "count"), "*i32"),
}
_OF_TYPE = ("x", "w", "gate_w", "external", "residual", "y")
_ALIGNED = ("x", "w", "gate_w", "residual", "y", "gmap", "cells", "count")
"""Pointers at multiples of 16, by the C interface."""
_BYTES: dict[Kind, int] = {
    **dict.fromkeys(("pointer", "scratch", "long_size", "stride", "i64"), 8),
    **dict.fromkeys(("size", "i32", "f32"), 4),
    "descriptor": 128,
    "flag": 1,
}


@dataclass(frozen=True)
class Variant:
    """One kernel to compile, but for its architecture."""

    kernel: Kernel
    dtype: Dtype
    configuration: str
    """The configuration's name; empty for gate and close."""
    in_eights: bool
    """Whether the channels of x are a multiple of 8."""
    nchw: bool

    @property
    def name(self) -> str:
        """What tells it from the others."""
        channels = "" if self.kernel == "close" else "-eights" if self.in_eights else "-any"
        return "-".join((self.configuration or self.kernel, self.dtype)) + channels + ("-nchw" if self.nchw else "")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a compiled kernel."""

    offset: int
    size: int
    kind: Kind
    name: str
    """The kernel's own argument that it is, or belongs to; empty for scratch."""
    axis: int
    """Of a size or a stride of a descriptor."""


@dataclass(frozen=True)
class Box:
    """How a descriptor's box lies in shared memory, in the driver's own numbers."""

    name: str
    box: tuple[int, ...]
    swizzle: int
    element_bytes: int
    element_type: int


@dataclass(frozen=True)
class Compiled:
    """A cubin, and all that a launch has to know of it."""

    variant: Variant
    capability: int
    function: str
    """The kernel's name in the cubin."""
    cubin: bytes
    shared: int
    """Dynamic shared memory of a block, in bytes."""
    warps: int
    registers: int
    """Of a thread."""
    stack: int
    """Bytes of a thread that do not fit into registers; 0 but where something spills."""
    cuda: int
    """The version of the assembler, 1000 * major + 10 * minor: a driver of an older major version
    does not load the cubin."""
    pdl: bool
    """Whether it may start before the kernel ahead of it has ended."""
    parameters: tuple[Parameter, ...]
    boxes: tuple[Box, ...]


def variants(capability: int) -> tuple[Variant, ...]:
    """List what one architecture needs: every form of the op, and every configuration.

    Args:
        capability: 10 * major + minor.
    """
    found = [Variant("gate", dtype, "", eights, False) for dtype in DTYPES[:2] for eights in (True, False)]
    found += [Variant("close", dtype, "", True, False) for dtype in DTYPES]
    found += [Variant("gate", "float32", "", False, nchw) for nchw in (False, True)]
    found.append(Variant("close", "float32", "", False, True))
    found += [Variant("rows", "float32", GENERAL_TILE, False, nchw) for nchw in (False, True)]
    for dtype in DTYPES[:2]:
        found.append(Variant("rows", dtype, GENERAL_TILE, False, False))
        found += [Variant(c.family, dtype, c.name, True, False) for c in CONFIGURATIONS if not misfit(c, capability, 2)]
    return tuple(found)


def constants_of(variant: Variant, capability: int) -> dict[str, object]:
    """Return the arguments that are compiled into a kernel, by their names.

    Args:
        variant: which one.
        capability: 10 * major + minor.
    """
    import triton.language as tl

    found: dict[str, object] = {"PDL": capability >= PROGRAMMATIC_LAUNCH, "EIGHTS": variant.in_eights and not variant.nchw}
    found |= dict.fromkeys(("x_pixel", "y_pixel") if variant.nchw else ("x_channel", "y_channel"), 1)
    found |= {"FUSED": True, "BM": HELPER_TILE[0], "BN": HELPER_TILE[1]}
    found["BC"] = NARROW if variant.nchw else HELPER_TILE[1]
    if variant.configuration:
        tile = _configuration(variant)
        found |= {"BM": tile.tile_m, "BN": tile.tile_n, "BK": tile.tile_k, "EN": tile.part_n, "SIDE": SIDE}
        found["PRECISION"] = "tf32x3" if variant.dtype == "float32" else "ieee"
        if variant.nchw:
            found["BK"] = NARROW  # addresses of channels that do not lie side by side take registers
        found["OPERAND"] = {"float16": tl.float16, "bfloat16": tl.bfloat16, "float32": tl.float32}[variant.dtype]
    return {name: value for name, value in found.items() if name in arguments_of(variant)}


def arguments_of(variant: Variant) -> Sequence[str]:
    """Return the names of a kernel's arguments, in order.

    Args:
        variant: which one.
    """
    from lccl.backends.torch.triton import kernels

    return tuple(getattr(kernels, FUNCTIONS[variant.kernel]).arg_names)


def _configuration(variant: Variant) -> Configuration:
    return next(c for c in CONFIGURATIONS if c.name == variant.configuration)


def descriptors_of(variant: Variant) -> dict[str, str]:
    """Return Triton's types of a kernel's descriptors, by their names.

    Args:
        variant: which one.
    """
    if variant.kernel != "boxes":
        return {}
    tile, short = _configuration(variant), _SHORT[variant.dtype]
    y = f"tensordesc<{short}[1,{SIDE},{SIDE},{tile.part_n}]>"
    return {
        "x": f"tensordesc<{short}[1,{SIDE},{SIDE},{tile.tile_k}]>",
        "w": f"tensordesc<{short}[{tile.tile_n},1,{tile.tile_k}]>",
        "residual": y,
        "y": y,
    }


def _signature(variant: Variant, arguments: Sequence[str], constants: Mapping[str, object]) -> dict[str, str]:
    kinds = dict.fromkeys(_OF_TYPE, f"*{_SHORT[variant.dtype]}") | POINTERS | descriptors_of(variant)
    kinds |= dict.fromkeys(_FLOATS, "fp32") | dict.fromkeys(_WIDE, "i64")
    return {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in arguments}


def _hints(variant: Variant, signature: Mapping[str, str]) -> dict[tuple[int], list[list[object]]]:
    """What the compiler may take for granted: what each argument is a multiple of."""
    eights = {"C"} if variant.in_eights else set()
    if not variant.nchw:
        eights |= {"x_image", "x_pixel", "y_image", "y_pixel", "y_channels"}
    found: dict[tuple[int], list[list[object]]] = {}
    for i, (name, kind) in enumerate(signature.items()):
        if kind[0] == "*" and name in _ALIGNED:
            found[(i,)] = [["tt.divisibility", 16]]
        elif name in eights and kind in ("i32", "i64"):
            found[(i,)] = [["tt.divisibility", 8]]
    return found


def compile_variant(variant: Variant, capability: int) -> Compiled:
    """Compile one kernel for one architecture; no GPU is needed.

    Args:
        variant: which one.
        capability: 10 * major + minor.

    Raises:
        RuntimeError: Triton lays parameters out in a way that is not known here, or asks for
            scratch memory, which a launch does not give.
    """
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    import triton
    from lccl.backends.torch.triton import kernels

    function = getattr(kernels, FUNCTIONS[variant.kernel])
    constants, signature, hints, options = _request(variant, capability)
    source = ASTSource(function, signature, constexprs=constants, attrs=hints)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    metadata, cubin = made.metadata, made.asm["cubin"]
    described = tuple(getattr(metadata, "tensordesc_meta", None) or ())
    names = [name for name, kind in signature.items() if kind.startswith("tensordesc")]
    scratch = max(metadata.global_scratch_size, metadata.profile_scratch_size)
    if scratch:
        raise RuntimeError(f"{metadata.name} asks for {scratch} bytes of scratch memory a block, which a launch does not give")
    known = kinds_of(signature, bool(described), _flags(signature, len(parameter_places(cubin, metadata.name))))
    return Compiled(
        variant, capability, metadata.name, cubin, metadata.shared, metadata.num_warps,
        _of_a_thread(cubin, _REGISTERS), _of_a_thread(cubin, _STACK),
        _number(get_ptxas(capability).version), capability >= PROGRAMMATIC_LAUNCH,
        parameters(cubin, metadata.name, [*known]),
        tuple(
            Box(name, tuple(d["block_size"]), d["swizzle"], d["elem_size"], _ON_HOST.get(d["elem_type"], d["elem_type"]))
            for name, d in zip(names, described, strict=bool(described))
        ),
    )  # fmt: skip


def _request(
    variant: Variant, capability: int
) -> tuple[dict[str, object], dict[str, str], dict[tuple[int], list[list[object]]], dict[str, object]]:
    """What Triton is asked for: constants, types, what arguments are multiples of, options."""
    constants = constants_of(variant, capability)
    signature = _signature(variant, arguments_of(variant), constants)
    options: dict[str, object] = {"num_warps": 4, "enable_fp_fusion": True}
    if variant.configuration:
        tile = _configuration(variant)
        options |= {"num_warps": tile.warps, "num_stages": 2 if variant.nchw else tile.stages}
    return constants, signature, _hints(variant, signature), options


def _number(version: str) -> int:
    """Return 13040 for 13.4."""
    major, minor = version.split(".")[:2]
    return 1000 * int(major) + 10 * int(minor)


_FLAGS = 2
"""Of a descriptor that is a plain pointer: padding by NaN, and rounding to TF32, which Triton 3.6
has not yet."""


def _flags(signature: Mapping[str, str], places: int) -> int:
    """How many flags a plain descriptor has in a cubin with so many parameters, two of scratch."""
    return next((n for n in (_FLAGS, _FLAGS - 1) if len([*kinds_of(signature, False, n)]) + 2 == places), _FLAGS)


_ON_HOST = {8: 10, 9: 8, 10: 9}
"""Types of elements whose numbers differ between the device and cuTensorMapEncodeTiled."""


def parameters(cubin: bytes, function: str, wanted: Sequence[tuple[Kind, str, int]]) -> tuple[Parameter, ...]:
    """Join a cubin's own list of parameters with the arguments that Triton made them from.

    Args:
        cubin: the compiled kernel.
        function: its name.
        wanted: kind, name and axis of each in order, without scratch.

    Raises:
        RuntimeError: the two lists do not fit each other.
    """
    places = parameter_places(cubin, function)
    scratch = len(places) - len(wanted)
    if not 0 <= scratch <= 2:
        raise RuntimeError(f"{function} has {len(places)} parameters, and {len(wanted)} arguments and two of scratch are known")
    nameless: list[tuple[Kind, str, int]] = [("scratch", "", 0)] * scratch
    found = []
    for (offset, size), (kind, name, axis) in zip(places, [*wanted, *nameless], strict=True):
        if size != _BYTES[kind]:
            raise RuntimeError(f"{function} takes {name or 'scratch'} in {size} bytes, and a {kind} has {_BYTES[kind]}")
        found.append(Parameter(offset, size, kind, name, axis))
    return tuple(found)


def kinds_of(signature: Mapping[str, str], has_maps: bool, flags: int = _FLAGS) -> Iterator[tuple[Kind, str, int]]:
    """List kind, name and axis of each parameter.

    Args:
        signature: Triton's type of each argument.
        has_maps: whether descriptors are the tensor memory accelerator's; else they are plain
            pointers, with sizes and strides twice and flags.
        flags: how many.

    Raises:
        RuntimeError: a type that is not known here.
    """
    scalars: dict[str, Kind] = {"i32": "i32", "i64": "i64", "fp32": "f32"}
    for name, kind in signature.items():
        if kind == "constexpr":
            continue
        if kind[0] == "*":
            yield "pointer", name, 0
        elif kind in scalars:
            yield scalars[kind], name, 0
        elif not kind.startswith("tensordesc"):
            raise RuntimeError(f"an argument {name} of type {kind} is not known here")
        else:
            axes = range(kind.count(",") + 1)
            yield "descriptor" if has_maps else "pointer", name, 0
            if not has_maps:
                yield from (("long_size", name, axis) for axis in axes)
                yield from (("stride", name, axis) for axis in axes)
                yield from (("flag", name, i) for i in range(flags))
            yield from (("size", name, axis) for axis in axes)
            yield from (("stride", name, axis) for axis in axes)


_PARAMETER = 0x17
"""EIATTR_KPARAM_INFO, in the section .nv.info of a kernel."""
_REGISTERS, _STACK = 0x2F, 0x11
"""EIATTR_REGCOUNT and EIATTR_FRAME_SIZE, in .nv.info."""
_WITH_BYTES = 4
"""EIFMT_SVAL: the attribute's bytes follow."""


def parameter_places(cubin: bytes, function: str) -> list[tuple[int, int]]:
    """Read offset and size of each parameter of a kernel, in bytes and in order, from its cubin.

    Args:
        cubin: an ELF file of 64 bits.
        function: the kernel's name.

    Raises:
        RuntimeError: it is no such file, or says nothing of the kernel.
    """
    found: dict[int, tuple[int, int]] = {}
    for at in _attributes(cubin, f".nv.info.{function}", _PARAMETER):
        _, ordinal, place, packed = struct.unpack_from("<IHHI", cubin, at)
        found[ordinal] = (place, packed >> 18)
    if sorted(found) != list(range(len(found))) or not found:
        raise RuntimeError(f"the cubin does not say where the parameters of {function} are")
    return [found[i] for i in range(len(found))]


def _of_a_thread(cubin: bytes, attribute: int) -> int:
    """Registers, or bytes of the stack, of a thread of a cubin's kernel."""
    return max(int(struct.unpack_from("<I", cubin, at + 4)[0]) for at in _attributes(cubin, ".nv.info", attribute))


def _attributes(cubin: bytes, section: str, wanted: int) -> Iterator[int]:
    """Where the bytes of an attribute begin, each time that it stands in a section."""
    for offset, size in _sections(cubin, section):
        at = offset
        while at < offset + size:
            form, attribute, length = struct.unpack_from("<BBH", cubin, at)
            at += 4
            if form == _WITH_BYTES:
                if attribute == wanted:
                    yield at
                at += length


def _sections(cubin: bytes, wanted: str) -> Iterator[tuple[int, int]]:
    """Offset and size of the sections of a name."""
    if cubin[:5] != b"\x7fELF\x02":
        raise RuntimeError("a cubin that is no ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry_bytes, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * entry_bytes) for i in range(count)]
    strings = sections[names][4]
    for name, _, _, _, offset, size in sections:
        start = strings + name
        if cubin[start : cubin.index(b"\0", start)] == wanted.encode():
            yield offset, size


def key_of(variant: Variant, capability: int, version: str) -> str:
    """Name a compiled kernel by all that it depends on.

    Args:
        variant: which one.
        capability: 10 * major + minor.
        version: of Triton.
    """
    asked = [asdict(variant), *map(repr, _request(variant, capability)), capability, version]
    asked.append(
        sorted(f"{kind.__name__}.{field}" for kind in (Compiled, Parameter, Box) for field in kind.__dataclass_fields__)
    )
    digest = hashlib.sha256((Path(__file__).parent / "kernels.py").read_bytes())
    digest.update(json.dumps(asked, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def compile_cached(variant: Variant, capability: int, cache: Path) -> Compiled:
    """Compile one kernel, or take it from the cache.

    Args:
        variant: which one.
        capability: 10 * major + minor.
        cache: the cache's folder, which is made.
    """
    import triton

    path = cache / f"{key_of(variant, capability, triton.__version__)}.json"
    if path.is_file():
        return _from_json(path.read_text())
    made = compile_variant(variant, capability)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(made) | {"cubin": b64encode(made.cubin).decode()}))
    unfinished.replace(path)
    return made


def _from_json(text: str) -> Compiled:
    read = json.loads(text)
    read["cubin"] = b64decode(read["cubin"])
    read["variant"] = Variant(**read["variant"])
    read["parameters"] = tuple(Parameter(**p) for p in read["parameters"])
    read["boxes"] = tuple(Box(**b | {"box": tuple(b["box"])}) for b in read["boxes"])
    return Compiled(**read)


def compile_all(wanted: Sequence[tuple[Variant, int]], cache: Path, jobs: int) -> list[Compiled]:
    """Compile kernels side by side.

    Args:
        wanted: variants and compute capabilities.
        cache: the cache's folder.
        jobs: compilers at once.
    """
    if jobs == 1 or len(wanted) < 2:
        return [compile_cached(variant, capability, cache) for variant, capability in wanted]
    with ProcessPoolExecutor(jobs) as pool:
        chosen, capabilities = zip(*wanted, strict=True)
        return list(pool.map(compile_cached, chosen, capabilities, [cache] * len(wanted)))


def source_text(compiled: Sequence[Compiled], binary: Path) -> str:
    """Write the C++ file that puts cubins into a library.

    Args:
        compiled: the cubins.
        binary: the file that holds them one behind the other, each at a multiple of 64.
    """
    path = str(binary).replace("\\", "\\\\").replace('"', '\\"')  # in a string of the assembler's
    directive = f'.section .rodata\n.balign 64\nlccl_cubins_start:\n.incbin "{path}"\n.byte 0\n.previous\n'
    lines = [
        "// Written by lccl/backends/torch/triton/ahead.py: the cubins of the Triton kernels.",
        '#include "cubins.h"',
        f"__asm__({json.dumps(directive, ensure_ascii=False)});",
        'extern "C" unsigned char const lccl_cubins_start[] __attribute__((visibility("hidden")));',
        "namespace lccl\n{\nnamespace\n{",
    ]
    offset, rows = 0, []
    for i, c in enumerate(compiled):
        parameters = ", ".join(
            f"{{{p.offset}, {p.size}, ParameterKind::{_KINDS[p.kind]}, Argument::{enumerator(p.name)}, {p.axis}}}"
            for p in c.parameters
        )
        lines.append(f"constexpr Parameter kParameters{i}[] = {{{parameters}}};")
        boxes = ", ".join(
            f"{{Argument::{enumerator(b.name)}, {len(b.box)}, {{{', '.join(map(str, b.box))}}}, {b.swizzle}, {b.element_bytes}, {b.element_type}}}"
            for b in c.boxes
        )
        if boxes:
            lines.append(f"constexpr Box kBoxes{i}[] = {{{boxes}}};")
        v = c.variant
        number = _configuration(v).number if v.configuration else 0
        fields = (
            f"CubinKernel::{_KINDS_OF_KERNELS[v.kernel]}, LCCL_{v.dtype.upper()}, {number}, {int(v.in_eights)}, {int(v.nchw)}",
            f'{c.capability}, "{c.function}", lccl_cubins_start + {offset}, {len(c.cubin)}',
            f"{c.shared}, {c.warps}, {c.registers}, {c.cuda}, {int(c.pdl)}, kParameters{i}, {len(c.parameters)}",
            f"{f'kBoxes{i}' if boxes else 'nullptr'}, {len(c.boxes)}",
        )
        rows.append(f"    {{{', '.join(fields)}}},")
        offset += padded(len(c.cubin))
    lines += ["Cubin const kCubins[] = {", *rows, "};", "} // namespace", ""]
    lines += ["Cubin const* allCubins(int32_t& count)\n{", f"    count = {len(compiled)};\n    return kCubins;\n}}"]
    return "\n".join([*lines, "} // namespace lccl\n"])


_KINDS: dict[Kind, str] = {
    "pointer": "kPointer", "descriptor": "kDescriptor", "size": "kSize", "long_size": "kLongSize", "stride": "kStride", "flag": "kFlag",
    "i32": "kInt32", "i64": "kInt64", "f32": "kFloat32", "scratch": "kScratch",
}  # fmt: skip
_KINDS_OF_KERNELS: dict[Kernel, str] = {"gate": "kGate", "rows": "kRows", "boxes": "kBoxes", "close": "kClose"}


def enumerator(name: str) -> str:
    """Return how C++ calls an argument of a kernel: kXImage for x_image, kNone for none.

    A kernel with an argument that C++ does not know does not compile.

    Args:
        name: the argument's.
    """
    words = {"": "none", "w": "weight"}.get(name, name).split("_")
    return "k" + "".join(word[:1].upper() + word[1:] for word in words)


def padded(size: int) -> int:
    """Return the least multiple of 64 that holds a size."""
    return -(-size // 64) * 64


def write(compiled: Sequence[Compiled], folder: Path) -> None:
    """Write ``cubins.bin`` and ``cubins.cpp``.

    Args:
        compiled: the cubins.
        folder: where to.
    """
    binary = (folder / "cubins.bin").resolve()
    binary.write_bytes(b"".join(c.cubin.ljust(padded(len(c.cubin)), b"\0") for c in compiled))
    (folder / "cubins.cpp").write_text(source_text(compiled, binary))


def default_cache() -> Path:
    """Return the user's folder for compiled kernels."""
    named = os.environ.get("LCCL_CUBIN_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(home) / "lccl" / "cubins"


def _probe(capability: int) -> int:
    """Compile the smallest kernel and lay it out; say in one line why not."""
    import triton

    try:
        compile_variant(Variant("close", "float16", "", True, False), capability)
    except Exception as error:  # whatever a Triton of another version lacks or does otherwise
        print(f"Triton {triton.__version__} does not compile the kernels: {first_line(error)}", file=sys.stderr)
        return 3
    print(triton.__version__)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what a build needs.

    Args:
        arguments: of the command line.

    Returns:
        The exit code: 1 where there is nothing to compile, 3 where Triton is not there or, asked by
        ``--probe``, does not compile.
    """
    parser = argparse.ArgumentParser(prog="python -m lccl.backends.torch.triton.ahead", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of cubins.bin and cubins.cpp")
    parser.add_argument("--capability", type=int, nargs="+", default=[90], help="such as 90")
    parser.add_argument("--only", nargs="+", default=[], help="names of variants; all of them without it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of compiled kernels")
    parser.add_argument(
        "--probe", action="store_true", help="print Triton's version if it compiles and lays out a small kernel"
    )
    given = parser.parse_args(arguments)
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
    try:
        import triton
    except ImportError as error:
        print(f"there is no Triton: {error}", file=sys.stderr)
        return 3
    if given.probe:
        return _probe(given.capability[0])
    known = {variant.name for capability in given.capability for variant in variants(capability)}
    if unknown := sorted({*given.only} - known):
        print(f"there are no kernels {', '.join(unknown)}; there are {', '.join(sorted(known))}", file=sys.stderr)
        return 1
    found = (int(number) for number in triton.__version__.split(".")[:2])
    boxes_on_blackwell = tuple(found) >= BOXES_ON_BLACKWELL
    wanted = [
        (variant, capability)
        for capability in given.capability
        for variant in variants(capability)
        if (not given.only or variant.name in given.only)
        and (boxes_on_blackwell or variant.kernel != "boxes" or capability // 10 != 10)
    ]
    if not wanted:
        print("none of these kernels is for these compute capabilities", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    write(compile_all(wanted, given.cache, given.jobs), given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
