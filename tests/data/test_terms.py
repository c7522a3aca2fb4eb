"""On which terms data are to be had, as a model card repeats it."""

from __future__ import annotations

import pytest

from raybench.data import names, terms
from raybench.errors import DataError

OWN = {"image_folder", "parquet"}
"""Data sets that are whatever the user has there."""


@pytest.mark.parametrize("name", names())
def test_each_data_set_states_its_terms_or_is_the_users(name: str) -> None:
    said = terms(name)
    assert said.endswith(".")
    assert ("data of your own" in said) == (name in OWN)


def test_an_unknown_data_set_is_told() -> None:
    with pytest.raises(DataError, match="unknown data set"):
        terms("cifra10")
