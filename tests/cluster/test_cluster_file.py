"""A cluster file: what is wrong with it is told at once, in words; what is right gives its machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.cluster.cluster_file import read_cluster_file
from raybench.cluster.job_server import token_of
from raybench.errors import ConfigError

pytest.importorskip("ray", reason="ray is not installed")

ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "clusters/aws.yaml", "clusters/gcp.yaml")


@pytest.fixture
def content() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return found


def faults(tmp_path: Path, content: object) -> tuple[str, ...]:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        read_cluster_file(file)
    assert all(problem.startswith(f"{file}: ") for problem in error.value.problems)
    return tuple(problem.removeprefix(f"{file}: ") for problem in error.value.problems)


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_the_project_are_in_order(name: str) -> None:
    found = read_cluster_file(ROOT / name)
    assert found.name == "raybench"
    assert found.key == Path.home() / ".ssh" / "raybench"
    if found.provider == "local":
        assert found.running() is found
        assert found.head is not None
        assert [found.head.address, *(each.address for each in found.workers)] == [
            f"192.168.1.{last}" for last in (10, 11, 12)
        ]
        assert found.head.command("true")[-2:] == ["raybench@192.168.1.10", "true"]
    else:
        assert found.head is None


@pytest.mark.parametrize("name", FILES)
def test_each_may_say_what_a_device_costs(tmp_path: Path, name: str) -> None:
    """As the comment in cluster.yaml offers it, and for a cloud just the same."""
    content = yaml.safe_load((ROOT / name).read_text())
    content["provider"]["price_per_hour"] = 0.35
    file = tmp_path / "priced.yaml"
    file.write_text(yaml.safe_dump(content))
    assert read_cluster_file(file).content["provider"]["price_per_hour"] == 0.35
    for wrong in (-1, "cheap"):
        content["provider"]["price_per_hour"] = wrong
        assert faults(tmp_path, content) == (
            f"provider.price_per_hour = {wrong!r}: must be a number of at least 0, of one device for one hour",
        )


def test_all_faults_are_told_at_once(tmp_path: Path, content: dict[str, Any]) -> None:
    content["setup_comands"] = ["true"]
    content["max_workers"] = "2"
    content["auth"]["ssh_usr"] = "me"
    content["auth"]["ssh_user"] = "me; reboot"
    content["provider"]["head_pi"] = "10.0.0.1"
    content["provider"]["worker_ips"] = ["10.0.0.1", "10.0.0.1", "$(reboot)"]
    content["head_start_ray_commands"] = ["ray start --head --dashboard-host=0.0.0.0"]
    found = "\n".join(faults(tmp_path, content))
    for said in (
        "setup_comands: no such key; did you mean setup_commands?",
        "max_workers = 2: not of type 'integer'",
        "auth.ssh_usr: no such key; did you mean ssh_user?",
        "auth.ssh_user = 'me; reboot': must be a user's name",
        "provider.head_pi: no such key; did you mean head_ip?",
        "provider: 10.0.0.1 stands there twice",
        "provider.worker_ips.2 = '$(reboot)': must be an address",
        "min_workers = 2: must be the number of worker_ips, 3",
        "without RAY_AUTH_MODE=token",
        "without --dashboard-host=127.0.0.1",
    ):
        assert said in found, found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("cluster_name"), "'cluster_name' is a required property"),
        (lambda c: c["provider"].pop("head_ip"), "provider.head_ip: is missing"),
        (lambda c: c["provider"].pop("worker_ips"), "provider.worker_ips: is missing"),
        (lambda c: c["provider"].update(type="azure"), "provider.type = azure: must be local, aws, gcp"),
        (lambda c: c.pop("auth"), "auth.ssh_user: is missing"),
        (lambda c: c.update(cluster_name="a b"), "must be letters, digits and hyphens"),
        (lambda c: c.update(worker_nodes={"a": 1}), "worker_nodes"),
        (lambda c: c.update(cluster_name=5), "cluster_name = 5: not of type 'string'"),
        (lambda c: c.update(auth=["me"]), "auth = ['me']: not of type 'object'"),
        (lambda c: c["provider"].update(worker_ips="10.0.0.1"), "provider.worker_ips = 10.0.0.1: not of type 'array'"),
        (lambda c: c["provider"].update(worker_ips=["10.0.0.1", 7]), "provider.worker_ips.1 = '7': must be an address"),
        (lambda c: c["auth"].update(ssh_private_key="~nobody-here/x"), "~nobody-here/x: there is no such user here"),
        (lambda c: c.update(head_start_ray_commands=5), "head_start_ray_commands = 5: not of type 'array'"),
    ],
)
def test_each_of_some_mistakes_is_told_once(tmp_path: Path, content: dict[str, Any], change: Any, said: str) -> None:
    change(content)
    (fault,) = faults(tmp_path, content)
    assert said in fault


def test_a_provider_that_is_no_name_is_no_traceback(tmp_path: Path, content: dict[str, Any]) -> None:
    content["provider"]["type"] = ["local"]
    assert faults(tmp_path, content) == (
        "provider.type = ['local']: not of type 'string'",
        "provider.type = ['local']: must be local, aws, gcp",
    )


START = "RAY_AUTH_MODE=token ray start --head"
OPEN = "ray start --head --dashboard-host=127.0.0.1"
SAFE = f"{START} --dashboard-host=127.0.0.1"


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (None, "is missing; Ray's own would start it without RAY_AUTH_MODE=token"),
        ([], "has no `RAY_AUTH_MODE=token ray start`"),
        (["ray stop"], "has no `RAY_AUTH_MODE=token ray start`"),
        (
            ["RAY_AUTH_MODE=token true; ray start --head --dashboard-host=127.0.0.1"],
            "without RAY_AUTH_MODE=token right",
        ),
        ([f"{SAFE} || {OPEN}"], "without RAY_AUTH_MODE=token right before it"),
        ([f"{SAFE} || /opt/{OPEN}"], "without RAY_AUTH_MODE=token right"),
        ([f"{SAFE} --dashboard-host=0.0.0.0"], "or with another one: it would be open to the network"),
        ([f"{START} --dashboard-host 0.0.0.0"], "or with another one: it would be open to the network"),
        ([f"{START}; echo --dashboard-host=127.0.0.1"], "without --dashboard-host=127.0.0.1"),
        ([f"{SAFE} || {START}"], "without --dashboard-host=127.0.0.1"),
    ],
)
def test_every_start_of_ray_is_closed_to_strangers(
    tmp_path: Path, content: dict[str, Any], commands: Any, said: str
) -> None:
    content["head_start_ray_commands"] = commands
    if commands is None:
        del content["head_start_ray_commands"]
    (fault,) = faults(tmp_path, content)
    assert fault.startswith("head_start_ray_commands: ")
    assert said in fault
    del content["worker_start_ray_commands"]
    assert "worker_start_ray_commands: is missing" in "\n".join(faults(tmp_path, content))


@pytest.mark.parametrize("start", [SAFE, SAFE.replace("ray start", "RAY_LOG=1  /opt/ray  start"), f"{SAFE} && true"])
def test_ways_to_start_ray_that_are_closed(tmp_path: Path, content: dict[str, Any], start: str) -> None:
    content["head_start_ray_commands"] = ["ray stop", start]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert read_cluster_file(tmp_path / "mine.yaml").name == "raybench"


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_cluster_file(tmp_path / "absent.yaml")
    assert faults(tmp_path, ["a", "list"]) == ("must be a mapping",)
    for text in ("a: [", 'a: "\\UFFFFFFFF"', "a: !!bool maybe", "[" * 5000):
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_cluster_file(tmp_path / "broken.yaml")


def test_where_the_token_is(tmp_path: Path, content: dict[str, Any]) -> None:
    file = tmp_path / "mine.yaml"
    token = tmp_path / "token"
    content["file_mounts"]["~/.raybench/ray_token"] = str(token)
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"no such file.*make it once:  \(umask 077"):
        token_of(read_cluster_file(file))
    token.write_text("0" * 64)
    assert token_of(read_cluster_file(file)) == token
    del content["file_mounts"]["~/.raybench/ray_token"]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"file_mounts: ~/\.raybench/ray_token is missing"):
        token_of(read_cluster_file(file))
