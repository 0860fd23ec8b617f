"""The form of each layer in ONNX Runtime: gated or in standard ops, joined to a run or not, by measurement."""
