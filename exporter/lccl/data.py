"""Data to run networks on: inputs and labels from files, loaders or arrays."""

from lccl.loading.data import Data, as_data, load_data, read_data

__all__ = ["Data", "as_data", "load_data", "read_data"]
