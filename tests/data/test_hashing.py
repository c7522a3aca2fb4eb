from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from raybench.data import hashing

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20), INT64)
def test_numpy_and_torch_give_the_same_bits(indices: list[int], key: int) -> None:
    array = np.array(indices, dtype=np.int64)
    assert hashing.bits(array, key).tolist() == hashing.bits(torch.tensor(indices), key).tolist()


def test_it_is_splitmix64() -> None:
    # The first outputs of the public-domain reference splitmix64.c with seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = hashing.bits(np.arange(4, dtype=np.int64), 1234567).view(np.uint64).tolist()
    assert found == expected


@given(INT64, st.integers(1, 63))
def test_shift_is_logical(value: int, places: int) -> None:
    shifted = hashing.shift_right(np.array([value], dtype=np.int64), places)
    assert int(shifted[0]) == (value % 2**64) >> places


def test_keys_tell_their_parts_apart() -> None:
    keys = {hashing.key(*parts) for parts in [("a",), ("b",), ("a", 1), ("a", "1"), ("a", 1, 1), ("a", 11), ("a", -1)]}
    assert len(keys) == 7
    assert all(-(2**63) <= key < 2**63 for key in keys)
