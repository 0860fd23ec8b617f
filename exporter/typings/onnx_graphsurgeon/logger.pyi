"""The logger of onnx-graphsurgeon: the part that this project uses."""

class Logger:
    ERROR: int
    severity: int

G_LOGGER: Logger
