"""Data to run networks on, inputs with their labels: from an ``.npz`` file, a loader, or arrays."""

from lccl.loading.data import Data, as_data, load_data, read_data

__all__ = ["Data", "as_data", "load_data", "read_data"]
