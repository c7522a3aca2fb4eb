"""Random numbers of views: each a function of a view's code and of what it is for, drawn on the CPU in 64 bits.

On the CPU, because logarithms and roots of other devices differ in their last bits, and a box of a crop must not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raybench.data import hashing


class Draws:
    """The random numbers of some views for one purpose."""

    def __init__(self, codes: Tensor, purpose: str) -> None:
        """codes: int64 (B,), on any device."""
        self.codes = codes.cpu()
        self.purpose = purpose

    def bits(self, *parts: int | str) -> Tensor:
        """64 random bits, int64 (B,); other parts give other numbers."""
        return hashing.bits(self.codes, hashing.key(self.purpose, *parts))

    def uniform(self, *parts: int | str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 (B,) in [low, high)."""
        return hashing.shift_right(self.bits(*parts), 11).double() * 2.0**-53 * (high - low) + low

    def normal(self, *parts: int | str) -> Tensor:
        """float64 (B,) of a standard normal distribution."""
        found: Tensor = torch.special.ndtri((hashing.shift_right(self.bits(*parts), 11).double() + 0.5) * 2.0**-53)
        return found

    def below(self, count: int | Tensor, *parts: int | str) -> Tensor:
        """int64 (B,) in 0..count-1; uneven by at most count / 2^32."""
        found: Tensor = (hashing.shift_right(self.bits(*parts), 32) * count) >> 32
        return found
