"""The PyTorch backend: the runner, and the CUDA kernels of the op."""
