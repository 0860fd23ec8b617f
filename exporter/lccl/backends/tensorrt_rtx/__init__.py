"""TensorRT for RTX: the builder of engines. The runner is TensorRT's."""
