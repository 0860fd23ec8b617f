"""ONNX graph passes, one file each, over onnx-graphsurgeon's graph; none of them imports PyTorch.

A pass takes a model and returns a new one. Canonical: LCCLConv nodes and the model-local function,
one file for all.
"""
