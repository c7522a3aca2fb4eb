"""The cluster files: Ray's own schema accepts them, Ray starts closed to strangers, and setting up again is safe."""

from __future__ import annotations

import copy
import ipaddress
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.config.price import price_in

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[a-z][a-z0-9-]*")

Cluster = dict[str, Any]


CLOUDS = ("aws", "gcp")


def read(name: str) -> Cluster:
    content: Cluster = yaml.safe_load((ROOT / name).read_text())
    return content


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return read("cluster.yaml")


@pytest.fixture(params=["cluster.yaml", *(f"clusters/{cloud}.yaml" for cloud in CLOUDS)])
def any_cluster(request: pytest.FixtureRequest) -> Cluster:
    return read(request.param)


@pytest.fixture(scope="module")
def check_with_ray() -> Callable[[Cluster], Cluster]:
    """What `ray up` does with a cluster file before it starts anything: fill in defaults, then validate."""
    util = pytest.importorskip("ray.autoscaler._private.util", reason="ray is not installed")

    def check(content: Cluster) -> Cluster:
        prepared: Cluster = util.prepare_config(copy.deepcopy(content))
        util.validate_config(prepared)
        return prepared

    return check


def test_ray_accepts_it_and_starts_every_worker(cluster: Cluster, check_with_ray: Callable[[Cluster], Cluster]) -> None:
    prepared = check_with_ray(cluster)
    workers = len(cluster["provider"]["worker_ips"])
    node = prepared["available_node_types"]["local.cluster.node"]
    assert (node["min_workers"], node["max_workers"], prepared["max_workers"]) == (workers, workers, workers)


def test_ray_lets_a_price_pass_and_tables_read_it(
    cluster: Cluster, check_with_ray: Callable[[Cluster], Cluster], tmp_path: Path
) -> None:
    text = (ROOT / "cluster.yaml").read_text().replace("  # price_per_hour:", "  price_per_hour:")
    priced = yaml.safe_load(text)
    assert priced["provider"].keys() - cluster["provider"].keys() == {"price_per_hour"}
    check_with_ray(priced)
    (tmp_path / "cluster.yaml").write_text(text)
    found = price_in(tmp_path / "cluster.yaml")
    assert found is not None
    assert found.per_hour == priced["provider"]["price_per_hour"] > 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("setup_comands", ["true"]),  # misspelt keys, at the top and further in
        ("auth.ssh_usr", "raybench"),
        ("max_workers", "2"),  # wrong types
        ("auth.ssh_user", 7),
        ("setup_commands", "make install"),
        ("head_start_ray_commands", [["ray", "start"]]),
    ],
)
def test_ray_refuses_a_mistake(
    cluster: Cluster, check_with_ray: Callable[[Cluster], Cluster], path: str, value: object
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    mistaken = copy.deepcopy(cluster)
    *parents, key = path.split(".")
    section = mistaken
    for parent in parents:
        section = section[parent]
    section[key] = value
    # A wrong type may already break Ray's filling-in of defaults.
    with pytest.raises((jsonschema.ValidationError, TypeError)):
        check_with_ray(mistaken)


@pytest.mark.scenario(29)
def test_names_and_addresses_hold_nothing_a_shell_would_read(cluster: Cluster) -> None:
    # Ray puts them into command lines and file names. Its schema lets any key and any text of `provider` pass.
    assert set(cluster["provider"]) == {"type", "head_ip", "worker_ips"}
    addresses = [cluster["provider"]["head_ip"], *cluster["provider"]["worker_ips"]]
    assert all(ipaddress.ip_address(address).is_private for address in addresses)
    assert len(set(addresses)) == len(addresses)
    assert NAME.fullmatch(cluster["cluster_name"])
    assert NAME.fullmatch(cluster["auth"]["ssh_user"])


def test_ray_starts_with_its_token_and_shows_its_dashboard_to_its_own_machine_only(any_cluster: Cluster) -> None:
    starts = {
        role: [command for command in any_cluster[f"{role}_start_ray_commands"] if "ray start" in command]
        for role in ("head", "worker")
    }
    for commands in starts.values():
        assert len(commands) == 1
        assert commands[0].count("ray start ") == commands[0].count("RAY_AUTH_MODE=token ray start ") == 1
    assert "--dashboard-host=127.0.0.1" in starts["head"][0].split()


def test_everything_it_copies_is_in_the_clone(any_cluster: Cluster) -> None:
    sources = set(any_cluster["file_mounts"].values())
    assert {source for source in sources if not (ROOT / source).exists()} == {"~/.raybench/ray_token"}
    # What `make install` reads on the machines.
    assert {"Makefile", "requirements.lock", "pyproject.toml", "README.md", "raybench", "sweeps"} <= sources


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_starts_from_no_worker_and_stops_idle_ones(
    cloud: str, check_with_ray: Callable[[Cluster], Cluster]
) -> None:
    prepared = check_with_ray(read(f"clusters/{cloud}.yaml"))
    gpu = prepared["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, prepared["max_workers"])
    assert prepared["head_node_type"] == "head"
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}  # no trial is lost with it
    assert 0 < prepared["idle_timeout_minutes"] <= 15
    assert prepared["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_keeps_results_in_its_bucket_and_nothing_shared_on_disks(cloud: str, tmp_path: Path) -> None:
    shown = dict(line.split("=", 1) for line in environment_of(cloud, tmp_path))
    scheme = {"aws": "s3", "gcp": "gs"}[cloud]
    assert shown["RAYBENCH_RESULTS"].startswith(f"{scheme}://BUCKET/")
    assert shown["RAYBENCH_DEPOT"].startswith(f"{scheme}://BUCKET/")
    assert shown["RAY_AUTH_MODE"] == "token"
    assert shown["RAYBENCH_DATA"] == str(tmp_path / "data")


def environment_of(cloud: str, home: Path) -> list[str]:
    """The variables that a cloud's machines put into their shells."""
    (home / ".raybench").mkdir()
    (command,) = [each for each in read(f"clusters/{cloud}.yaml")["setup_commands"] if each.startswith("printf")]
    script = f"{command}; . ~/.raybench/environment; env"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"HOME": str(home), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()


def test_machines_of_aws_are_asked_for_as_its_api_takes_it() -> None:
    """Every key of a machine against the parameters of RunInstances, as boto3 knows them; Ray adds the rest itself."""
    session = pytest.importorskip("botocore.session").get_session()
    validate = pytest.importorskip("botocore.validate").ParamValidator().validate
    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    machines = read("clusters/aws.yaml")["available_node_types"]
    for machine in machines.values():
        report = validate({"MinCount": 1, "MaxCount": 1, **machine["node_config"]}, shape)
        assert not report.has_errors(), report.generate_report()
    misspelt = {"MinCount": 1, "MaxCount": 1, "InstanceTyp": "m6i.large"}
    assert validate(misspelt, shape).has_errors()
    # A group of one's own: into one that Ray makes, the whole world may log in.
    assert all(machine["node_config"]["SecurityGroupIds"] for machine in machines.values())
    assert machines["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in machines["head"]["node_config"]


def test_machines_of_gcp_are_in_a_network_of_their_own_and_spot() -> None:
    machines = read("clusters/gcp.yaml")["available_node_types"]
    for machine in machines.values():
        (interface,) = machine["node_config"]["networkInterfaces"]
        assert interface["subnetwork"].endswith("/subnetworks/raybench")
    assert machines["gpu"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert machines["gpu"]["node_config"]["scheduling"]["onHostMaintenance"] == "TERMINATE"
    assert "scheduling" not in machines["head"]["node_config"]


def set_up(cluster: Cluster, home: Path, shared: Path, role: str = "head") -> subprocess.CompletedProcess[str]:
    """Run the set-up commands as Ray does, each in a shell of its own, up to the first that fails; all but the
    installation, which `make` already made safe to repeat."""
    commands = [*cluster["setup_commands"], *cluster[f"{role}_setup_commands"]]
    # HOME alone: what the commands need besides is what they themselves put into the shell's start file.
    environment = {"HOME": str(home), "PATH": os.defpath}
    result = subprocess.CompletedProcess[str]([], 0, "", "")
    for command in commands:
        if command.startswith("make "):
            continue
        shell = f"source ~/.bashrc; ({command.replace('/mnt/raybench', str(shared))})"
        result = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True, timeout=30)
        if result.returncode != 0:
            break
    return result


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    token = folder / ".raybench" / "ray_token"
    token.parent.mkdir(parents=True)
    token.write_text("0" * 64)
    (folder / ".bashrc").write_text("EDITOR=vi")
    return folder


def test_setting_up_twice_is_setting_up_once(cluster: Cluster, home: Path, tmp_path: Path) -> None:
    (tmp_path / "shared" / "results").mkdir(parents=True)
    states = []
    for _ in range(2):
        assert set_up(cluster, home, tmp_path / "shared").returncode == 0
        states.append({path: path.read_text() for path in sorted(home.rglob("*")) if path.is_file()})
    assert states[0] == states[1]
    assert states[0][home / ".bashrc"].startswith("EDITOR=vi\n")


def test_shells_on_a_machine_know_the_token_and_the_project(cluster: Cluster, home: Path, tmp_path: Path) -> None:
    (tmp_path / "shared" / "results").mkdir(parents=True)
    assert set_up(cluster, home, tmp_path / "shared").returncode == 0
    assert stat.S_IMODE((home / ".raybench" / "ray_token").stat().st_mode) == 0o600

    printed = subprocess.run(
        ["bash", "-c", "source ~/.bashrc; env"],
        env={"HOME": str(home), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    seen = dict(line.split("=", 1) for line in printed.splitlines())
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["RAY_AUTH_TOKEN_PATH"] == str(home / ".raybench" / "ray_token")
    assert seen["PATH"].split(os.pathsep)[0] == str(home / "raybench" / ".venv" / "bin")
    assert seen["RAYBENCH_RESULTS"] == str(tmp_path / "shared" / "results")
    assert seen["RAYBENCH_DEPOT"] == str(tmp_path / "shared" / "depot")
    assert "RAYBENCH_CACHE" not in seen  # each machine's own


def test_a_missing_shared_folder_is_said(cluster: Cluster, home: Path, tmp_path: Path) -> None:
    result = set_up(cluster, home, tmp_path / "shared")
    assert result.returncode == 1
    assert result.stdout.startswith(f"error: {tmp_path / 'shared' / 'results'} on ")


def test_a_worker_with_another_folder_in_the_same_place_is_refused(
    cluster: Cluster, home: Path, tmp_path: Path
) -> None:
    for name in ("shared", "other"):
        (tmp_path / name / "results").mkdir(parents=True)
    assert set_up(cluster, home, tmp_path / "shared", "head").returncode == 0
    assert set_up(cluster, home, tmp_path / "shared", "worker").returncode == 0
    result = set_up(cluster, home, tmp_path / "other", "worker")
    assert result.returncode == 1
    assert "is not the head's" in result.stdout
