"""Asking every machine of a cluster, without one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.cluster import check as module
from raybench.cluster.check import Asked, check, preset_for
from raybench.cluster.cluster_file import ClusterFile
from raybench.cluster.findings import Said
from raybench.cluster.ssh import Answer, Host

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
    asked: dict[str, Asked] = {}

    def ask(host: Host, mark: str, role: str, seek: Sequence[str] = ()) -> Said:  # noqa: ARG001
        about = {
            "gpus": [CARD | {"driver": "550"}] if host.address == "10.0.0.2" else [],
            "results": "",
            "free_gib": {},
        }
        return Said(host.address, about=about | {"versions": versions, "time": 0.0})

    def ready(host: Host, sweep: Asked) -> dict[str, Any]:
        asked[host.address] = sweep
        return {"faults": []}

    monkeypatch.setattr(module, "_ask", ask)
    monkeypatch.setattr(module, "_ready", ready)
    monkeypatch.setattr(module, "_nodes", lambda _: None)
    sweep = Asked("some", "# Some\n", ["--fetch"])
    checked = check(cluster("cluster.yaml"), sweep)
    expected = replace(sweep, preset="paper")
    assert asked == {"10.0.0.1": expected, "10.0.0.2": expected}
    assert checked.preset == "paper (a GPU in the cluster)"
    assert checked.findings.faults == ()


def test_a_machine_is_asked_about_the_file_that_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a shell of its own in place of SSH, with a program that says what it was given in place of Python."""
    home, program = tmp_path / "home", tmp_path / "bin" / "python"
    (home / "raybench").mkdir(parents=True)
    program.parent.mkdir()
    program.write_text(
        '#!/bin/bash\nprintf \'{"file": "%s", "text": "%s", "rest": "%s"}\' "$3" "$(cat "$3")" "${*:4}"\n'
    )
    program.chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{program.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}

    def run(host: Host, remote: str, *, given: str, timeout_s: float) -> Answer:  # noqa: ARG001
        done = subprocess.run(["sh", "-c", remote], input=given, env=environment, capture_output=True, text=True)
        return Answer(done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(module, "run", run)
    found = module._ready(Host("10.0.0.1", "me"), Asked("some", "# Some", ["a.b=[1, 2]"], "quick"))
    assert (found["text"], found["rest"]) == ("# Some", "a.b=[1, 2] --preset quick")
    assert Path(found["file"]).name == "some.yaml"
    assert not Path(found["file"]).parent.exists()
