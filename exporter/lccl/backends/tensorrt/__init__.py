"""TensorRT: the plugin's library and its compilation, the builder of engines, the runner."""
