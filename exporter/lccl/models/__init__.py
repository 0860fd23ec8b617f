"""Networks that a checkpoint may name as its factory without the caller's confirmation."""
