"""A convolution whose mode changes its weights."""

from __future__ import annotations

from torch import nn


class Merging(nn.Conv2d):
    """A layer that merges a second weight into its own in eval mode, as LoRA's do."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -0.5 if mode else 0.5
            self.merged = not mode
        return self
