"""The TensorRT plugin of ``lccl::LCCLConv``: where its library is, and how TensorRT gets it.

``lccl doctor`` prints what is here: the library, TensorRT, and whether its registry holds the
plugin.
"""

from lccl.backends.tensorrt.library import find_plugin, load_plugin, plugin_path

library_path = plugin_path
"""The plugin's library, under the name that :mod:`lccl.ort` has for the CPU op's."""

__all__ = ["find_plugin", "library_path", "load_plugin", "plugin_path"]
