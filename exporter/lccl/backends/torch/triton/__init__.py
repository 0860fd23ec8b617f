"""The op on CUDA by Triton: compiled when it is first called, with nothing built ahead."""
