"""The CPU op against ONNX Runtime's and OpenVINO's dense convolutions; what recognition costs."""
