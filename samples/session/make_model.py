"""Writes the model of this sample: two gated layers, small enough to be committed. It needs lccl[export].

python samples/session/make_model.py gated.onnx
"""

from __future__ import annotations

import sys

import torch

import lccl
from lccl.nn import LCCLConv2d


def main(path: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        LCCLConv2d(3, 8, 3, padding=1),
        LCCLConv2d(8, 8, 3, padding=1, gate="grid", gate_size=4),
    )
    model(torch.randn(8, 3, 32, 32))  # gives the norms their statistics
    print(lccl.export(model.eval(), torch.randn(1, 3, 32, 32), path))


if __name__ == "__main__":
    main(*sys.argv[1:])
