"""The kernels' shared library: lookup, loading, and its C functions as Python methods.

``liblccl_cuda.so`` takes device pointers. ``liblccl_emulator.so`` has the same functions, takes
host pointers and runs the same kernels on the CPU. Both load here.
"""

from __future__ import annotations

import os
from ctypes import CDLL, byref, create_string_buffer
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lccl.backends.native import FOLDER
from lccl.backends.torch.cuda.interface import (
    ABI,
    INVALID_VALUE,
    NOT_SUPPORTED,
    PROTOTYPES,
    SUCCESS,
    ConvParams,
    Device,
    Dtype,
    Family,
    Math,
    Rates,
)
from lccl.backends.torch.cuda.planning import conv_params, layer_attributes, layer_shapes
from lccl.errors import ContractError, UserError, first_line

ENVIRONMENT = "LCCL_CUDA_LIBRARY"
PACKAGED = FOLDER / "liblccl_cuda.so"
_REASON_BYTES = 512
_CUDA_ERRORS = {
    2: "out of device memory",
    100: "there is no CUDA device",
    101: "there is no such CUDA device",
    35: "there is no NVIDIA driver, or it is older than the CUDA runtime in the library",
    98: "the library has no kernel for this GPU: build it for the GPU's architecture",
    209: "the library has no kernel for this GPU: build it for the GPU's architecture",
    700: "a kernel accessed memory that is not its own; the process cannot use the GPU any more",
    701: "a kernel asked for more registers or shared memory than the GPU has",
    716: "a kernel accessed a misaligned address; the process cannot use the GPU any more",
    719: "a kernel failed; the process cannot use the GPU any more",
    999: "a kernel that Triton compiled takes parameters that the library does not know: build it again",
}


@dataclass(frozen=True)
class Config:
    """One configuration of the kernels, a row of the library's table.

    Sizes in elements, shared memory in bytes.
    """

    id: int
    name: str
    family: Family
    math: Math
    tile_m: int
    tile_n: int
    tile_k: int
    stages: int
    warps_m: int
    warps_n: int
    shared_bytes: int
    max_registers: int
    blocks_per_sm: int

    def as_dict(self) -> dict[str, object]:
        """Return the configuration as plain values for JSON.

        ``engine`` is the old name of ``math``, until 0.3.
        """
        math = self.math.name.lower()
        return asdict(self) | {"family": self.family.name.lower(), "math": math, "engine": math}


@dataclass(frozen=True)
class Support:
    """Whether a configuration can run a call; true if it can."""

    reason: str
    """Why it cannot; empty if it can."""

    def __bool__(self) -> bool:
        return not self.reason

    def as_dict(self) -> dict[str, object]:
        """Return the answer as plain values for JSON."""
        return {"supported": bool(self), "reason": self.reason}


class Library:
    """The kernels' C interface (``lccl_cuda.h``), loaded from a shared library.

    All methods except :meth:`launch` only plan: they read sizes and flags and no pointer.

    Args:
        path: the library's file.

    Raises:
        UserError: the file is missing, does not load, or has another version's interface.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._functions = _functions_of(self.path)
        _check_abi(self)
        self._configs = tuple(_read_config(self, i) for i in range(self._functions["lccl_conv_config_count"]()))

    def __repr__(self) -> str:
        return f"Library({str(self.path)!r})"

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the header by its name."""
        return self._functions[name](*arguments)

    def configs(self) -> list[Config]:
        """Return the table of configurations, in its order."""
        return list(self._configs)

    def configs_for(self, device: Device) -> list[Config]:
        """Return the configurations whose code this library has for a device, in order."""
        calls = []
        for dtype, grid in ((Dtype.FLOAT16, 1), (Dtype.FLOAT16, 8), (Dtype.FLOAT32, 1), (Dtype.FLOAT32, 8)):
            attributes = layer_attributes((1, 1), grid=grid)
            calls.append(conv_params(layer_shapes((1, 8, 1, 1), 8, (1, 1), attributes), attributes, dtype))
        return [c for c in self._configs if any(self.supported(call, device, c.id) for call in calls)]

    def config(self, id_or_name: int | str) -> Config:
        """Return a configuration by its id or its name.

        Raises:
            UserError: there is no such configuration.
        """
        for config in self._configs:
            if id_or_name in (config.id, config.name):
                return config
        raise UserError(f"there is no configuration {id_or_name!r}: python -m lccl.cuda prints the table")

    def device(self, ordinal: int = 0) -> Device:
        """Return the CUDA device of that number; the emulator returns the one that it emulates.

        Raises:
            UserError: there is no such device.
        """
        device = Device()
        error = self.call("lccl_device_query", ordinal, byref(device))
        if error != SUCCESS:
            raise UserError(f"CUDA device {ordinal} cannot be asked for its properties: {_meaning(error)}")
        return device

    def supported(self, params: ConvParams, device: Device, config: int = 0) -> Support:
        """Return whether a configuration can run the call; for ``config`` 0, whether any can."""
        reason = create_string_buffer(_REASON_BYTES)
        ok = self.call("lccl_conv_supported", byref(params), byref(device), config, reason, _REASON_BYTES)
        return Support("" if ok else reason.value.decode(errors="replace") or "the library gives no reason")

    def choose(self, params: ConvParams, device: Device) -> int:
        """Return the id of the configuration with the smallest predicted time.

        0 if none can run the call.
        """
        return int(self.call("lccl_conv_choose", byref(params), byref(device)))

    def resident_blocks(self, device: Device, config: int) -> int:
        """Return how many blocks of the main kernel run at once on the device.

        0 if there is no such configuration.
        """
        return int(self.call("lccl_conv_resident_blocks", byref(device), config))

    def rates(self, device: Device) -> Rates:
        """Return the constants of the time model, behind :meth:`predict`, for a device."""
        rates = Rates()
        self.call("lccl_conv_rates", byref(device), byref(rates))
        return rates

    def predict(self, params: ConvParams, device: Device, config: int, rates: Rates | None = None) -> float | None:
        """Predict the time of a call in microseconds; None if the configuration cannot run it.

        The prediction is a model, not a measurement.

        Args:
            params: the call.
            device: the device to plan for.
            config: the id of a configuration.
            rates: the model's constants; None: those of the device.
        """
        given = None if rates is None else byref(rates)
        time = float(self.call("lccl_conv_predict", byref(params), byref(device), config, given))
        return None if time < 0 else time

    def workspace(self, params: ConvParams, device: Device, config: int) -> int:
        """Return the bytes of workspace that the configuration needs for the call."""
        return int(self.call("lccl_conv_workspace", byref(params), byref(device), config))

    def launch(
        self, params: ConvParams, device: Device, config: int, workspace: int, workspace_bytes: int, stream: int = 0
    ) -> None:
        """Enqueue the call; the tensors and the workspace must live until it ends.

        Args:
            params: the call, with its addresses.
            device: the device that it was planned for.
            config: the id of a configuration.
            workspace: the workspace's address, a multiple of 16.
            workspace_bytes: its size.
            stream: a cudaStream_t; 0: the default stream.

        Raises:
            ContractError: the configuration cannot run the call.
            UserError: a pointer or the workspace is wrong, or CUDA refused a launch.
        """
        error = self.call("lccl_conv_launch", byref(params), byref(device), config, workspace, workspace_bytes, stream)
        if error == SUCCESS:
            return
        reason = create_string_buffer(_REASON_BYTES)
        call = (byref(params), byref(device), config, workspace, workspace_bytes)
        said = "" if self.call("lccl_conv_check", *call, reason, _REASON_BYTES) else reason.value.decode(errors="replace")
        if error == NOT_SUPPORTED:
            raise ContractError(said or _meaning(error))
        if error == INVALID_VALUE and said:
            raise UserError(said)
        raise UserError(f"a kernel could not be started: {_meaning(error)}")


def _meaning(error: int) -> str:
    return _CUDA_ERRORS.get(error, f"CUDA error {error}")


def _missing(path: Path) -> str:
    return f"there is no kernel library at {path}: build it with lccl-build-plugin, or set {ENVIRONMENT} to its path"


def _functions_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(_missing(path))
    try:
        loaded = CDLL(str(path.resolve()))
    except OSError as error:
        raise UserError(f"the kernel library does not load: {first_line(error)}") from None
    functions = {}
    for name, (result, arguments) in PROTOTYPES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise UserError(
                f"{path} has no function {name}: it is not lccl's kernel library, or that of another version"
            ) from None
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    return functions


def _check_abi(library: Library) -> None:
    """Ask about a call with a configuration that no library has.

    A library with other structs refuses the call by its first field, before it looks for the
    configuration. Whether it can run a call depends on what it was built with.
    """
    attributes = layer_attributes((1, 1))
    shapes = layer_shapes((1, 1, 1, 1), 1, (1, 1), attributes)
    any_device = Device(90, 132, 232448, 233472)
    reason = library.supported(conv_params(shapes, attributes, Dtype.FLOAT32), any_device, -1).reason
    if "no configuration with that id" not in reason:
        raise UserError(
            f"{library.path} does not take the calls of this version of lccl (interface {ABI}): {reason}; build it again"
        )


def _read_config(library: Library, index: int) -> Config:
    row = library.call("lccl_conv_config_at", index).contents
    values = {name: getattr(row, name) for name in Config.__dataclass_fields__}
    return Config(
        **values
        | {
            "name": row.name.decode(),
            "family": Family(row.family),
            "math": Math(row.math),
        }
    )


def library_path(path: str | Path | None = None) -> Path:
    """Return the path given, else the one in LCCL_CUDA_LIBRARY, else the package's own."""
    return Path(path or os.environ.get(ENVIRONMENT) or PACKAGED)


def why_none() -> str:
    """Return why there is no library: none is named and the package has none.

    Empty if :func:`load` may find one.
    """
    return _missing(PACKAGED) if library_path() == PACKAGED and not PACKAGED.is_file() else ""


def load(path: str | Path | None = None) -> Library:
    """Load the library at :func:`library_path`, once per path.

    Raises:
        UserError: the file is missing, does not load, or has another version's interface.
    """
    return _load(library_path(path))


@lru_cache(maxsize=8)
def _load(path: Path) -> Library:
    return Library(path)
