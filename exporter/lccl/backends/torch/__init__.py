"""PyTorch: the runner, and the CUDA kernels under the op."""
