"""What is wrong with a cluster, from what its machines said."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from raybench.cluster import probe
from raybench.cluster.check import Checked, versions_here
from raybench.cluster.cluster_file import ClusterFile
from raybench.cluster.findings import Findings, Said, examine
from raybench.cluster.ssh import Host
from raybench.commands.cluster import report

HERE = {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0", "raybench": "abcdefabcdef", "sweeps": "aaaa"}
HEAD, WORKER = "10.0.0.1", "10.0.0.2"
L4 = {"name": "NVIDIA L4", "memory_mib": 24576, "free_mib": 20000, "driver": "550.54"}


def machine(address: str, **changes: Any) -> Said:
    about = {
        "name": f"host{address[-1]}",
        "results": "/mnt/raybench/results",
        "unwritable": None,
        "versions": dict(HERE),
        "gpus": [dict(L4)],
        "cpus": 8,
        "memory_gib": 32.0,
        "free_gib": {"/home/raybench": 100.0, "/mnt/raybench/results": 500.0},
        "time": 1000.0,
    }
    return Said(address, 999.0, 1001.0, about | changes, seen=frozenset([HEAD, WORKER]))


def found(*machines: Said, alive: Any = (HEAD, WORKER)) -> Findings:
    return examine(HERE, machines, None if alive is None else {address: f"host{address[-1]}" for address in alive})


def test_two_machines_that_are_alike_have_no_fault() -> None:
    assert found(machine(HEAD), machine(WORKER)) == Findings((), ())


def test_before_ray_up_only_notes_are_said() -> None:
    bare = {**dict.fromkeys(HERE), "python": None}
    machines = [machine(each, versions=bare, results="", free_gib={"/home/raybench": 50.0}) for each in (HEAD, WORKER)]
    assert found(*(replace(each, seen=None) for each in machines), alive=None) == Findings(
        (),
        (
            f"{HEAD}: raybench is not installed there yet; `ray up` brings every machine up to date",
            f"{WORKER}: raybench is not installed there yet; `ray up` brings every machine up to date",
            "Ray does not run there; start it: ray up",
        ),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"versions": HERE | {"torch": "2.12.0"}}, f"{WORKER}: torch 2.12.0, here 2.13.0"),
        ({"versions": HERE | {"ray": None}}, f"{WORKER}: ray is not installed, here 2.60.0"),
        ({"versions": HERE | {"python": "3.12.1"}}, f"{WORKER}: python 3.12.1, here 3.11.7"),
        ({"versions": HERE | {"raybench": "0123"}}, f"{WORKER}: other code of raybench than here (0123, here abcdef"),
        ({"versions": HERE | {"torch": None}}, f"{WORKER}: raybench is there, its packages are not"),
        ({"gpus": "no driver"}, f"{WORKER}: a GPU is there and its driver does not answer: no driver; mend"),
        ({"gpus": [L4 | {"driver": "535.1"}]}, f"different GPU drivers: 550.54 on {HEAD}, 535.1 on {WORKER}"),
        ({"time": 1100.0}, f"{WORKER}: its clock is 98 s ahead of that of {HEAD}"),
        ({"time": 900.0}, f"{WORKER}: its clock is 98 s behind that of {HEAD}"),
        ({"free_gib": {"/home/raybench": 1.5}}, f"{WORKER}: /home/raybench has 1.5 GiB free; at least 2 are needed"),
        ({"free_gib": {"/mnt/raybench/results": 0.5}}, "has 0.5 GiB free; at least 1 are needed"),
        ({"results": "/other"}, "results lie in different places: /mnt/raybench/results, /other"),
        ({"unwritable": "/mnt: Read-only file system"}, f"{WORKER}: results cannot be written: /mnt: Read-only file"),
    ],
)
def test_each_fault_of_a_machine(changes: dict[str, Any], said: str) -> None:
    faults = found(machine(HEAD), machine(WORKER, **changes)).faults
    assert len(faults) == 1
    assert said in faults[0]


def test_clocks_that_may_be_equal_are() -> None:
    # Asking the worker took a minute, within which its clock may have been read at any time.
    slow = replace(machine(WORKER, time=1050.0), asked=999.0, answered=1060.0)
    assert found(machine(HEAD), slow).faults == ()


def test_a_release_of_the_same_python_is_no_fault() -> None:
    assert found(machine(HEAD), machine(WORKER, versions=HERE | {"python": "3.11.2"})).faults == ()


def test_other_sweeps_are_worth_a_note() -> None:
    other = machine(WORKER, versions=HERE | {"sweeps": "bbbb"})
    note = f"{WORKER}: other sweeps than here; `submit` sends the file of the one that it runs, and `ray up` brings"
    assert found(machine(HEAD), other).faults == ()
    (said,) = found(machine(HEAD), other).notes
    assert said.startswith(note)
    # Here is a package that was installed, without a folder of sweeps beside it.
    assert examine(HERE | {"sweeps": None}, [machine(HEAD)], {HEAD: "host1"}).notes == ()


def test_a_folder_that_is_not_shared() -> None:
    apart = [replace(machine(each), seen=frozenset([each])) for each in (HEAD, WORKER)]
    first, second = found(*apart).faults
    assert first.startswith(f"{HEAD}: /mnt/raybench/results is not shared: what {WORKER} wrote there is not seen")
    assert second.startswith(f"{WORKER}: ")


def test_machines_that_are_silent_or_have_not_joined() -> None:
    silent = Said(WORKER, silent="cannot be reached as me: Connection timed out")
    assert found(machine(HEAD), silent).faults == (f"{WORKER}: cannot be reached as me: Connection timed out",)
    assert found(machine(HEAD), machine(WORKER), alive=[HEAD]).faults == (
        f"{WORKER}: answers, but has not joined Ray; `ray up` starts it there",
    )


def test_machines_that_are_reached_from_outside_are_known_by_what_they_say_of_themselves() -> None:
    alive = {"172.31.0.5": "ip-172-31-0-5", "172.31.0.6": "ip-172-31-0-6"}
    head = machine("54.1.2.3", addresses=["172.31.0.5", "172.17.0.1"])
    silent = machine("gpu-2.local", name="ip-172-31-0-6")  # one that does not know its addresses
    head, silent = (replace(each, seen=None) for each in (head, silent))
    assert examine(HERE, [head, silent], alive).faults == ()
    cluster = ClusterFile(Path("aws.yaml"), "mine", "aws", Host("54.1.2.3", "me"), (), "me", None, {})
    shown = report(cluster, Checked((head, silent), alive, Findings((), ())))
    assert [line.split()[-1] for line in shown[2:4]] == ["yes", "yes"]
    # One of the same name at another address is another machine.
    stranger = machine("54.1.2.4", addresses=["172.31.0.7"], name="ip-172-31-0-6")
    (fault,) = examine(HERE, [head, replace(stranger, seen=None)], alive).faults
    assert fault == "54.1.2.4: answers, but has not joined Ray; `ray up` starts it there"


def test_a_machine_knows_its_addresses(tmp_path: Path) -> None:
    interfaces = [each for name in psutil.net_if_addrs().values() for each in name]
    own = {each.address for each in interfaces if each.family == socket.AF_INET}
    assert set(probe.addresses(probe.ROUTES)) == {each for each in own if not each.startswith("127.")}
    assert probe.addresses(tmp_path / "absent") == []


def test_data_of_a_sweep() -> None:
    lacks = {"faults": ["cifar100 not found"]}
    both = [replace(machine(each), data=lacks) for each in (HEAD, WORKER)]
    assert found(*both).faults == ("every machine: cifar100 not found",)
    one = [replace(machine(HEAD), data={"faults": [], "fingerprints": {"cifar100": "aa"}}), both[1]]
    assert found(*one).faults == (f"{WORKER}: cifar100 not found",)
    other = replace(machine(WORKER), data={"faults": [], "fingerprints": {"cifar100": "bb"}})
    assert found(one[0], other).faults == (f"cifar100: different data: aa on {HEAD}; bb on {WORKER}",)


def test_data_that_come_from_the_depot_are_wanted_on_the_head_alone() -> None:
    lacks = {"faults": ["cifar100 not found", "resnet.pt not found"], "absent": {"cifar100 not found": "cifar100"}}
    has = {"faults": [], "fingerprints": {"cifar100": "aa"}}
    depot = {"depot": "s3://bucket/depot"}
    head = replace(machine(HEAD, **depot), data=has)
    worker = replace(machine(WORKER, **depot), data=lacks)
    note = f"has no files of cifar100, which it copies from the depot, where the sweep brings those of {HEAD}"
    assert found(head, worker) == Findings((f"{WORKER}: resnet.pt not found",), (f"{WORKER}: {note}",))
    # Without a depot, and where the head has none either, it is a fault.
    assert f"{WORKER}: cifar100 not found" in found(head, replace(machine(WORKER), data=lacks)).faults
    without = [replace(machine(each, **depot), data=lacks) for each in (HEAD, WORKER)]
    assert "every machine: cifar100 not found" in found(*without).faults


def test_the_report_names_every_machine_and_fault() -> None:
    cluster = ClusterFile(
        Path("cluster.yaml"), "mine", "local", Host(HEAD, "me"), (Host(WORKER, "me"),), "me", None, {}
    )
    machines = (machine(HEAD), Said(WORKER, silent="cannot be reached as me: No route to host"))
    lines = report(cluster, Checked(machines, {HEAD: "host1"}, found(*machines, alive=[HEAD])))
    assert lines[0] == "cluster.yaml: mine, 2 machines, as me"
    assert lines[2].split() == (
        f"{HEAD} host1 3.11.7 2.13.0 2.60.0 1 x NVIDIA L4 (24 GiB, driver 550.54) 8 32 GiB 100 GiB, 500 GiB yes".split()
    )
    assert lines[-2:] == ["1 fault:", f"  {WORKER}: cannot be reached as me: No route to host"]
    fine = (machine(HEAD), machine(WORKER))
    assert report(cluster, Checked(fine, None, found(*fine, alive=None)))[-1] == "no fault found"


def ask(home: Path, results: str, **asked: Any) -> dict[str, Any]:
    """The probe as a machine runs it: from its standard input, in a home folder of its own."""
    done = subprocess.run(
        [sys.executable, "-", json.dumps({"mark": "m", "seek": [], **asked})],
        input=Path(probe.__file__).read_text(),
        env={"HOME": str(home), "RAYBENCH_RESULTS": results, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_two_machines_see_what_each_other_wrote(tmp_path: Path) -> None:
    shared, home = tmp_path / "results", tmp_path / "home"
    shared.mkdir()
    (home / "raybench" / "raybench").mkdir(parents=True)
    (home / "raybench" / "raybench" / "a.py").write_text("1")
    before = time.time()
    said = ask(home, str(shared), role="write", address=HEAD)
    assert before <= said["time"] <= time.time()
    assert said["unwritable"] is None
    assert said["versions"]["torch"] is None
    assert len(said["versions"]["raybench"]) == 12
    assert said["cpus"] >= 1
    assert set(said["free_gib"]) == {str(home), str(shared)}
    assert ask(home, str(shared), role="read", address=HEAD, seek=[HEAD, WORKER])["seen"] == [HEAD]
    ask(home, str(shared), role="write", address=WORKER)
    assert ask(home, str(shared), role="read", address=HEAD, seek=[HEAD, WORKER])["seen"] == [HEAD, WORKER]
    for address in (HEAD, WORKER):
        ask(home, str(shared), role="clear", address=address)
    assert list(shared.iterdir()) == []
    assert "No such file" in ask(home, str(tmp_path / "absent"), role="write", address=HEAD)["unwritable"]


def test_the_code_is_told_apart_by_content_and_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = probe.tree_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert probe.tree_hash(tmp_path) == first
    for name in ("a.py", "page.js", "published/some.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("2")
        assert probe.tree_hash(tmp_path) != first
        first = probe.tree_hash(tmp_path)
    assert probe.tree_hash(tmp_path / "absent") is None


def test_this_machine_knows_its_versions() -> None:
    own = versions_here()
    assert own["ray"] is not None
    assert own["raybench"] == probe.tree_hash(Path(probe.__file__).parents[1])
    assert own["sweeps"] == probe.tree_hash(Path(probe.__file__).parents[2] / "sweeps")
