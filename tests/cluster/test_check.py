"""Asking every machine of a cluster, without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.cluster import check as module
from raybench.cluster.check import check, preset_for
from raybench.cluster.cluster_file import ClusterFile
from raybench.cluster.findings import Said
from raybench.cluster.ssh import Host

ROOT = Path(__file__).parents[2]
CARD = {"name": "NVIDIA L4"}


def cluster(name: str) -> ClusterFile:
    content = yaml.safe_load((ROOT / name).read_text())
    workers = (Host("10.0.0.2", "me"),)
    return ClusterFile(
        ROOT / name, "mine", content["provider"]["type"], Host("10.0.0.1", "me"), workers, "me", None, content
    )


def machines(*gpus: Any) -> list[Said]:
    return [Said(f"10.0.0.{place}", about={"gpus": each}) for place, each in enumerate(gpus, 1)]


@pytest.mark.parametrize(
    ("file", "gpus", "nodes", "expected"),
    [
        ("cluster.yaml", [[], []], None, "quick"),
        ("cluster.yaml", [[], [CARD]], None, "paper"),
        ("cluster.yaml", [[], None], None, "quick"),  # a driver that does not answer: Ray would find none either
        ("clusters/gcp.yaml", [[]], None, "paper"),  # it may start some
        ("clusters/aws.yaml", [[]], {"gpus": 4.0}, "paper"),  # what Ray knows of its file, which ours does not say
        ("cluster.yaml", [[CARD]], {"gpus": 0.0}, "quick"),
    ],
)
def test_the_preset_is_what_submit_makes_of_auto(file: str, gpus: list[Any], nodes: Any, expected: str) -> None:
    assert preset_for("auto", cluster(file), machines(*gpus), nodes)[0] == expected
    assert preset_for("small", cluster(file), machines(*gpus), nodes) == ("small", "")


def test_every_machine_is_asked_about_the_same_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has no GPU, and by itself would choose another one."""
    versions = module.versions_here()
    asked: dict[str, Sequence[str]] = {}

    def ask(host: Host, mark: str, role: str, seek: Sequence[str] = ()) -> Said:  # noqa: ARG001
        about = {
            "gpus": [CARD | {"driver": "550"}] if host.address == "10.0.0.2" else [],
            "results": "",
            "free_gib": {},
        }
        return Said(host.address, about=about | {"versions": versions, "time": 0.0})

    def ready(host: Host, sweep: Sequence[str]) -> dict[str, Any]:
        asked[host.address] = sweep
        return {"faults": []}

    monkeypatch.setattr(module, "_ask", ask)
    monkeypatch.setattr(module, "_ready", ready)
    monkeypatch.setattr(module, "_nodes", lambda _: None)
    checked = check(cluster("cluster.yaml"), ["deit_reverse", "--fetch"])
    expected = ["deit_reverse", "--fetch", "--preset", "paper"]
    assert asked == {"10.0.0.1": expected, "10.0.0.2": expected}
    assert checked.preset == "paper (a GPU in the cluster)"
    assert checked.findings.faults == ()
