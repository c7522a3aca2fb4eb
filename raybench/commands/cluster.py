"""`raybench cluster …`: from the laptop, look a cluster over, hand it a sweep, and follow that."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.commands.endings import EXIT_BAD_INPUT, EXIT_COMPLETE, EXIT_INTERRUPTED, EXIT_TROUBLE, ended, print_error
from raybench.commands.submitting import Parser, agreed, asked_for, hand_over, job_name
from raybench.errors import ConfigError, RaybenchError

if TYPE_CHECKING:
    from raybench.cluster.check import Checked
    from raybench.cluster.cluster_file import ClusterFile
    from raybench.cluster.job_server import JobServer

EPILOG = """\
  check  [NAME [key=value …]]   look every machine over before money is spent; with a sweep's NAME, whether its data
                                and weights are there too (--fetch downloads what can be)
  submit NAME [as for sweep …]  run a sweep on the cluster and follow it; Ctrl-C leaves it running
  follow [JOB]                  come back to a job, the latest one unless named
  stop   [JOB]                  have it end as after Ctrl-C; `submit` again goes on
  watch  SWEEP                  the live table of a sweep, and what each machine does
  logs   TRIAL_ID               what a trial left of its faults
  down                          `ray down`, and on machines of your own what that leaves running for minutes

exit codes: 0 well; 1 something is wrong with the cluster, or the sweep's own; 2 bad input; 130 after Ctrl-C.
"""


def parser(prog: str = "raybench cluster") -> argparse.ArgumentParser:
    """The command line, as far as it is alike for all of them."""
    parse = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").partition(": ")[2],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parse.add_argument("what", choices=["submit", *COMMANDS], metavar="|".join(["submit", *COMMANDS]))
    parse.add_argument("-f", "--file", type=Path, default=Path("cluster.yaml"), metavar="FILE", help="cluster.yaml")
    return parse


def main(argv: Sequence[str], sweep_parser: Parser) -> int:
    """Run one of them; returns the exit code."""
    args, rest = parser().parse_known_args(argv)
    if args.what == "submit":
        return ended(lambda: _met(lambda: _submit(args.file, rest, sweep_parser)))
    return ended(lambda: _met(lambda: COMMANDS[args.what](args.file, rest)))


def _met(run: Callable[[], int]) -> int:
    """Run a command; a cluster that cannot be reached, or has no such job, is no bad input."""
    try:
        return run()
    except ConfigError:
        raise
    except RaybenchError as error:
        print_error(error)
        return EXIT_TROUBLE


def _cluster(file: Path) -> ClusterFile:
    from raybench.cluster.cluster_file import read_cluster_file

    return read_cluster_file(file)


# -- check -------------------------------------------------------------------------------------------------------------


def _check(file: Path, rest: Sequence[str]) -> int:
    from raybench.config.document import find_sweep, read_document
    from raybench.config.load import PRESETS

    parse = argparse.ArgumentParser(prog="raybench cluster check", allow_abbrev=False)
    parse.add_argument("name", nargs="?", metavar="NAME")
    parse.add_argument("overrides", nargs="*", metavar="key=value")
    parse.add_argument("--preset", choices=["auto", *PRESETS], default="auto")
    parse.add_argument("--fetch", action="store_true", help="download what a machine lacks and can download")
    args = parse.parse_intermixed_args(rest)
    from raybench.cluster.check import Asked, check

    sweep = None
    if args.name:
        named = find_sweep(args.name)
        read_document(named)  # which says it where it is no text
        arguments = [*args.overrides, *(["--fetch"] * args.fetch)]
        sweep = Asked(named.stem, named.read_text(encoding="utf-8"), arguments, args.preset)
    checked = check(cluster := _cluster(file).running(), sweep)
    for line in report(cluster, checked):
        print(line)
    return EXIT_TROUBLE if checked.findings.faults else EXIT_COMPLETE


def report(cluster: ClusterFile, checked: Checked) -> list[str]:
    """A line a machine, then what is wrong, all of it."""
    count = len(checked.machines)
    lines = [f"{cluster.path}: {cluster.name}, {count} machine{'s' * (count != 1)}, as {cluster.user}"]
    rows: list[tuple[str, ...]] = [
        ("address", "name", "python", "torch", "ray", "GPU", "CPU", "memory", "free disk", "in Ray")
    ]
    rows += [_row(each, checked.alive) for each in checked.machines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    found = checked.findings
    lines += [f"preset {checked.preset}"] if checked.preset else []
    lines += [f"note: {note}" for note in found.notes]
    if found.faults:
        lines += [
            f"{len(found.faults)} fault{'s' * (len(found.faults) != 1)}:",
            *(f"  {each}" for each in found.faults),
        ]
    else:
        lines.append("no fault found")
    return lines


def _cards(gpus: list[dict[str, Any]]) -> str:
    """GPUs of a machine, as many of each name, with memory and driver of the first."""
    if not gpus:
        return "none"
    named = ", ".join(f"{number} x {name}" for name, number in Counter(gpu["name"] for gpu in gpus).items())
    memory = gpus[0]["memory_mib"]
    return f"{named} ({f'{memory / 1024:.0f} GiB, ' if memory else ''}driver {gpus[0]['driver']})"


def _row(machine: Any, alive: Any) -> tuple[str, ...]:
    if machine.silent:
        return (machine.address, *["?"] * 9)
    about, versions = machine.about, machine.about["versions"]
    shown = "?" if isinstance(about["gpus"], str) else _cards(about["gpus"])
    return (
        machine.address,
        about["name"],
        versions["python"] or "-",
        versions["torch"] or "-",
        versions["ray"] or "-",
        shown,
        str(about["cpus"]),
        f"{about['memory_gib']:g} GiB",
        ", ".join(f"{free:g} GiB" for free in about["free_gib"].values() if free is not None),
        "-" if alive is None else "yes" if machine.joined(alive) else "no",
    )


# -- submit, follow, stop ----------------------------------------------------------------------------------------------


def _submit(file: Path, rest: Sequence[str], sweep_parser: Parser) -> int:
    wanted = asked_for(rest, sweep_parser)
    running = _cluster(file).running()
    from raybench.cluster.job_server import job_server
    from raybench.cluster.ssh import in_project, words

    assert running.head is not None
    job = job_name(wanted.sweep, datetime.now(UTC), secrets.token_hex(2))
    arguments = hand_over(running.head, wanted, job)
    if not wanted.settled and sys.stdin.isatty():
        if not agreed(running.head, arguments):
            return EXIT_BAD_INPUT
        arguments.append("--yes")
    command = words(["python", "-m", "raybench.sweep", *arguments])
    with job_server(running) as server:
        server.submit(job, in_project(f"exec {command}"), {"sweep": wanted.sweep, "by": "raybench"})
        print(f"job {job}: {command}", flush=True)
        return _followed(server, job, file)


def _follow(file: Path, rest: Sequence[str]) -> int:
    return _with_job(file, rest, "follow", lambda server, job: _followed(server, job, file))


def _stop(file: Path, rest: Sequence[str]) -> int:
    return _with_job(file, rest, "stop", lambda server, job: _stopped(server, job, file))


def _stopped(server: JobServer, job: str, file: Path) -> int:
    """Have a job end, and wait until it has."""
    from raybench.cluster.job_server import ENDED, STOP_S

    print(f"{job}: {'told to stop' if server.stop(job) else 'had ended already'}", flush=True)
    status, _ = server.ended(job, STOP_S)
    if status not in ENDED:
        print(f"{job}: still {status.lower()} {STOP_S:.0f} s later. {_back(job, file)}", file=sys.stderr)
        return EXIT_TROUBLE
    print(f"{job}: {status.lower()}; what was done stays, and `raybench cluster submit` goes on")
    return EXIT_COMPLETE


def _with_job(file: Path, rest: Sequence[str], what: str, act: Callable[[JobServer, str], int]) -> int:
    parse = argparse.ArgumentParser(prog=f"raybench cluster {what}", allow_abbrev=False)
    parse.add_argument("job", nargs="?", metavar="JOB")
    args = parse.parse_args(list(rest))
    from raybench.cluster.job_server import job_server

    with job_server(_cluster(file)) as server:
        known = server.names()
        if not known:
            raise RaybenchError("no job was submitted to this cluster since its Ray was started")
        if args.job and args.job not in known:
            raise RaybenchError(f"{args.job}: no such job; known: {', '.join([*known][-5:])}")
        return act(server, args.job or [*known][-1])


def _followed(server: JobServer, job: str, file: Path) -> int:
    """Hand on the log until the job ends; its exit code. Ctrl-C and a lost connection leave it running."""
    from raybench.cluster.job_server import ENDED

    back = _back(job, file)
    try:
        server.follow(job, _write)
        status, code = server.ended(job)
        if status not in ENDED:
            raise RaybenchError(f"the log of job {job} was closed while it is {status.lower()}")
    except KeyboardInterrupt:
        print(f"\ndetached; {job} goes on. {back}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RaybenchError as error:
        raise RaybenchError(f"{error}\n{job} goes on by itself; {back}") from None
    if status == "SUCCEEDED":
        return EXIT_COMPLETE
    print(f"{job}: {status.lower()}" + (f", exit code {code}" if code is not None else ""), file=sys.stderr)
    return code if code is not None and 0 < code < 256 else EXIT_TROUBLE


def _back(job: str, file: Path) -> str:
    """How to come back to a job, and how to end it."""
    option = "" if file == Path("cluster.yaml") else f" -f {shlex.quote(str(file))}"
    return f"come back:  raybench cluster follow {job}{option}   stop it:  raybench cluster stop {job}{option}"


def _write(lines: str) -> None:
    sys.stdout.write(lines)
    sys.stdout.flush()


# -- what is run on the head -------------------------------------------------------------------------------------------


def _watch(file: Path, rest: Sequence[str]) -> int:
    return _on_head(file, ["watch", *rest])


def _logs(file: Path, rest: Sequence[str]) -> int:
    return _on_head(file, ["logs", *rest])


def _on_head(file: Path, arguments: Sequence[str]) -> int:
    """A command of raybench on the head, drawn here; its exit code."""
    from raybench.cluster.ssh import in_project

    cluster = _cluster(file).running()
    assert cluster.head is not None
    options = ["-t"] if sys.stdout.isatty() and sys.stdin.isatty() else []
    width = os.environ.get("COLUMNS")
    shown = f"COLUMNS={shlex.quote(width)} " if width else ""
    remote = in_project(f"{shown}python -m raybench {shlex.join(arguments)}")
    return subprocess.run(cluster.head.command(remote, *options), check=False).returncode


def _down(file: Path, rest: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="raybench cluster down", allow_abbrev=False).parse_args(list(rest))
    cluster = _cluster(file)
    from raybench.cluster.ssh import Answer, Host, in_project, run

    ray = Path(sys.executable).with_name("ray")
    code = subprocess.run([str(ray), "down", "-y", str(file)], check=False).returncode
    if code != 0 or cluster.head is None:  # machines of a cloud are gone then
        return EXIT_TROUBLE if code else EXIT_COMPLETE

    def stop(host: Host) -> Answer:
        # The head's Ray is gone; a worker's log monitor would try to reach it for minutes.
        return run(host, in_project("ray stop --force"), timeout_s=120)

    hosts = (cluster.head, *cluster.workers)
    with ThreadPoolExecutor(len(hosts)) as threads:
        answers = list(threads.map(stop, hosts))
    left = [(host, answer) for host, answer in zip(hosts, answers, strict=True) if answer.code != 0]
    for host, answer in left:
        print(f"{host.address}: Ray may still run there: {answer.last_error}", file=sys.stderr)
    return EXIT_TROUBLE if left else EXIT_COMPLETE


COMMANDS: dict[str, Callable[[Path, Sequence[str]], int]] = {
    "check": _check,
    "follow": _follow,
    "stop": _stop,
    "watch": _watch,
    "logs": _logs,
    "down": _down,
}
