"""The form of each layer in ONNX Runtime, by measurement: gated or not, joined to a run or not."""
