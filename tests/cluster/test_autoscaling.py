"""Which machines a cluster may start, from the file that `ray up` leaves on its head."""

from __future__ import annotations

from pathlib import Path

import yaml

from raybench.cluster.autoscaling import joined, startable, with_startable

ROOT = Path(__file__).parents[2]
HEAD, GPU = {"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}


def test_the_workers_of_a_cloud_count_before_they_run() -> None:
    content = yaml.safe_load((ROOT / "clusters" / "gcp.yaml").read_text())
    assert startable(content) == [GPU] * 4
    assert startable(content | {"max_workers": 2}) == [GPU] * 2


def test_machines_of_ones_own_are_there_or_not() -> None:
    assert startable(yaml.safe_load((ROOT / "cluster.yaml").read_text())) == []
    assert startable({}) == []


def test_those_that_run_already_are_not_counted_twice() -> None:
    assert joined([HEAD], [GPU, GPU]) == [HEAD, GPU, GPU]
    assert joined([HEAD, GPU], [GPU, GPU]) == [HEAD, GPU, GPU]
    assert joined([HEAD, GPU, GPU, GPU], [GPU, GPU]) == [HEAD, GPU, GPU, GPU]


def test_without_the_file_only_what_is_alive_counts(tmp_path: Path) -> None:
    assert with_startable([HEAD], tmp_path / "absent.yaml") == [HEAD]
    file = tmp_path / "left.yaml"
    file.write_text((ROOT / "clusters" / "gcp.yaml").read_text())
    assert with_startable([HEAD], file) == [HEAD, GPU, GPU, GPU, GPU]
    for text in ("[", 'a: "\\UFFFFFFFF"', "!!bool maybe"):
        file.write_text(text)
        assert with_startable([HEAD], file) == [HEAD]
