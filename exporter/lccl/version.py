"""The package's version: written into files, read by the build."""

__version__ = "0.2.0"
