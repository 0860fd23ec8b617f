"""ONNX graphs: of a case, written by hand, at random, and the named graphs of recognition."""
