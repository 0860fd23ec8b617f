"""What is measured, and the check of the CUDA kernels on a GPU."""
