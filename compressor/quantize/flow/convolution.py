"""A convolution is a product: each output pixel multiplies the window of inputs it looks at by one and the same matrix.

    y[n, :, i, j] = W^T window(n, i, j)      W [channels * kh * kw, out],  window in the order channel, row, column

So its weight has a second moment, and every solver of linears solves it. Source of the view: Chellapilla et al. 2006
(im2col).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PIECE_BYTES = 1 << 27  # of windows that are held at once: an image of 224 x 224 with 64 channels has 116 MB of them


@dataclass(frozen=True)
class Window:
    """Which inputs an output pixel looks at. Pairs are (height, width); pads are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    def unfold(self, x: Tensor) -> Iterator[Tensor]:
        """x [batch, channels, height, width] -> windows [pixels, channels * kh * kw], some images at a time."""
        area = self.kernel[0] * self.kernel[1]
        images = max(1, PIECE_BYTES // (x[0].nbytes * area))
        for piece in torch.split(self._padded(x), images):
            windows = functional.unfold(piece.float(), self.kernel, self.dilations, 0, self.strides)
            yield windows.transpose(1, 2).flatten(0, 1)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [batch, channels, height, width] by weight [channels * kh * kw, out] -> [batch, out, height', width']."""
        kernel = weight.T.reshape(weight.shape[1], -1, *self.kernel)
        return functional.conv2d(self._padded(x), kernel, None, self.strides, 0, self.dilations)

    def _padded(self, x: Tensor) -> Tensor:
        top, left, bottom, right = self.pads
        return functional.pad(x, (left, right, top, bottom)) if any(self.pads) else x


def pixels_first(bias: Tensor) -> Tensor:
    """A bias [out] as it is added to [batch, out, height, width]."""
    return torch.reshape(bias, (-1, 1, 1))
