"""Time and memory of recognition on a large network: a gated ResNet, from a file as users have it.

python bench/cpu/recognise_large.py                  # ResNet-152 python
bench/cpu/recognise_large.py --width 160      # wider, 1.5 GB, with its weights in a file beside it
python bench/cpu/recognise_large.py --export         # the whole export, with its checks python
bench/cpu/recognise_large.py --session        # ONNX Runtime alone, to compare with
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

BLOCKS = (3, 8, 36, 3)
"""Of ResNet-152, per stage."""


class Network:
    """Bottleneck blocks whose 3x3 convolution has a gate.

    BatchNorms are not folded; batch, height and width are dynamic.
    """

    def __init__(self, width: int) -> None:
        self.width, self.rng = width, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def const(self, values: np.ndarray) -> str:
        name = f"w{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, c: int, k: int, size: int, stride: int = 1) -> str:
        weight = self.rng.standard_normal((k, c, size, size), np.float32) * (2 / (c * size * size)) ** 0.5
        y = self.op("Conv", x, self.const(weight), strides=[stride] * 2, pads=[size // 2] * 4, kernel_shape=[size] * 2)
        statistics = (np.full(k, 0.5), np.full(k, 0.01), np.zeros(k), np.ones(k))
        return self.op("BatchNormalization", y, *(self.const(s) for s in statistics))

    def block(self, x: str, c: int, middle: int, stride: int, first: bool) -> str:
        y = self.op("Relu", self.conv(x, c, middle, 1))
        branch, gate = self.conv(y, middle, middle, 3, stride), self.conv(y, middle, 1, 3, stride)
        z = self.conv(self.op("Mul", self.op("Relu", branch), self.op("Relu", gate)), middle, 4 * middle, 1)
        return self.op("Relu", self.op("Add", z, self.conv(x, c, 4 * middle, 1, stride) if first else x))

    def model(self) -> onnx.ModelProto:
        x, c = self.op("Relu", self.conv("x", 3, self.width, 7, 2)), self.width
        for stage, blocks in enumerate(BLOCKS):
            middle = self.width * 2**stage
            for i in range(blocks):
                x, c = self.block(x, c, middle, 2 if stage and not i else 1, i == 0), 4 * middle
        self.op("GlobalAveragePool", x)
        shape = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, "H", "W"])
        output = helper.make_tensor_value_info(self.nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "resnet", [shape], [output], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def measure(path: Path) -> str:
    """Recognise the file in this process, as an export does.

    The process has done nothing before.
    """
    from lccl.files.weights import WeightFile
    from lccl.graph.recognise import recognise
    from lccl.loading.onnx import load_onnx
    from lccl.op.onnx_op import register_schema

    register_schema()
    size, before = sum(file.stat().st_size for file in path.parent.iterdir()), peak()
    with WeightFile(path) as weights:
        start = time.perf_counter()
        model = load_onnx(path, weights)
        loaded = time.perf_counter()
        found = recognise(model)
        seconds = time.perf_counter() - loaded
    return (
        f"{len(model.graph.node)} nodes, {size / 1e6:.0f} MB, {len(found.layers)} layers: loaded in {loaded - start:.2f} s, "
        f"matched and rewritten in {seconds:.2f} s; peak memory {peak() / size:.2f} x the model, {before / size:.2f} x before"
    )


def measure_export(path: Path) -> str:
    """The whole export of the file in this process, checked on images of 64 x 64."""
    import lccl

    size = sum(file.stat().st_size for file in path.parent.iterdir())
    start = time.perf_counter()
    result = lccl.export(path, np.zeros((1, 3, 64, 64), np.float32), path.with_name("exported.onnx"))
    seconds = time.perf_counter() - start
    return (
        f"{size / 1e6:.0f} MB, {result.gated} layers: exported in {seconds:.0f} s; peak memory {peak() / size:.1f} x the model"
    )


def measure_session(path: Path) -> str:
    """ONNX Runtime alone with the file and one image, to compare an export's memory with."""
    import onnxruntime

    size = sum(file.stat().st_size for file in path.parent.iterdir())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((1, 3, 64, 64), np.float32)})
    return f"{size / 1e6:.0f} MB in ONNX Runtime {onnxruntime.__version__}: peak memory {peak() / size:.1f} x the model"


def peak() -> int:
    """Bytes that this process had resident at most so far.

    Linux keeps it; getrusage has the parent's in it.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage's 3x3 convolutions (default: 64)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--export", action="store_true", help="measure the whole export instead of recognition alone")
    what.add_argument("--session", action="store_true", help="measure a session of ONNX Runtime alone")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    measured = {"--export": measure_export, "--session": measure_session}
    chosen = "--export" if options.export else "--session" if options.session else None
    if options.file:
        print(measured.get(chosen, measure)(options.file))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet.onnx"
        onnx.save(Network(options.width).model(), path, save_as_external_data=True)
        subprocess.run([sys.executable, __file__, "--file", str(path), *filter(None, [chosen])], check=True)


if __name__ == "__main__":
    main()
