"""Dense networks in PyTorch that ``convert`` is held to."""
