"""Counter-based randomness: a number that depends on a key and an index, and on nothing drawn before it.

The finaliser is that of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA).
It is written with operators that NumPy arrays and tensors of any device share, so all of them give the same bits.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Integers = TypeVar("Integers", npt.NDArray[np.int64], "torch.Tensor")


def _signed(value: int) -> int:
    """The same 64 bits, read as a signed number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)


def key(*parts: int | str) -> int:
    """A signed 64-bit key of whole numbers and words; the first word names the use, so uses never share numbers."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def bits(indices: Integers, key: int) -> Integers:
    """64 random bits for each index (int64, any shape), as signed int64 of the same shape.

    Different indices under one key never collide: the map is a bijection.
    """
    state = (indices + 1) * GAMMA + key
    state = (state ^ shift_right(state, 30)) * MIX_1
    state = (state ^ shift_right(state, 27)) * MIX_2
    return state ^ shift_right(state, 31)


def shift_right(values: Integers, places: int) -> Integers:
    """Logical shift of int64: the sign bit moves like any other."""
    return (values >> places) & ((1 << (64 - places)) - 1)
