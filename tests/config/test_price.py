"""The price of a device in a cluster file."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.config.price import Price, price_in
from raybench.errors import ConfigError


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    return tmp_path / "cluster.yaml"


@pytest.mark.parametrize("text", ["", "- a", "cluster_name: lab", "provider: local", "provider: {price_per_hour: }"])
def test_a_file_without_a_price_has_none(cluster: Path, text: str) -> None:
    assert price_in(cluster) is None
    cluster.write_text(text)
    assert price_in(cluster) is None


@pytest.mark.parametrize("price", [0, 2, 1.25])
def test_a_price(cluster: Path, price: float) -> None:
    cluster.write_text(f"provider: {{type: local, price_per_hour: {price}}}")
    found = price_in(cluster)
    assert found == Price(price, f"provider.price_per_hour of {cluster}")
    assert found.of(4.0) == 4 * price
    assert found.of(None) is None


@pytest.mark.parametrize("price", ["-1", "9" * 400, "'1.10'", "cheap", "true", ".inf", ".nan", "[1]"])
def test_what_is_no_price_is_said_with_its_place(cluster: Path, price: str) -> None:
    cluster.write_text(f"provider: {{price_per_hour: {price}}}")
    with pytest.raises(ConfigError, match=r"cluster\.yaml: provider\.price_per_hour = .*at least 0.*--price-per-hour"):
        price_in(cluster)


def test_a_file_that_cannot_be_read_is_said(cluster: Path) -> None:
    cluster.write_text("provider:\n  price_per_hour: [1\n")
    with pytest.raises(ConfigError, match=r"cluster\.yaml:3: .*--price-per-hour"):
        price_in(cluster)
    for text in ('"\\UFFFFFFFF"', "!!bool maybe", "!!timestamp x", "[" * 5000):
        cluster.write_text(f"provider: {text}")
        with pytest.raises(ConfigError, match=r"cluster\.yaml.*: .*--price-per-hour"):
            price_in(cluster)
    cluster.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        price_in(cluster)
    cluster.unlink()
    cluster.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        price_in(cluster)
