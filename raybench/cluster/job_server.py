"""Ray's job server of a cluster, reached through an SSH tunnel with the cluster's token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from raybench.cluster.cluster_file import ClusterFile
from raybench.cluster.session import configure
from raybench.cluster.ssh import tunnel
from raybench.config.folders import at_home
from raybench.errors import ConfigError, RaybenchError

PORT = 8265
"""Of the dashboard, which listens on the head's loopback."""
TOKEN_THERE = "~/.raybench/ray_token"
"""Where a cluster file puts the token on each machine."""
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
END_S = 15.0
"""From the end of a job's log until its status says so."""
STOP_S = 60.0
"""From the word to stop until a job's status says that it has. RAY_JOB_STOP_WAIT_TIME_S of the cluster files gives it
20 s to end in order, and what then still runs is killed."""


class JobServer:
    """The jobs of a cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, job: str, entrypoint: str, about: Mapping[str, str]) -> None:
        """Start a job of that name on the head. Raises RaybenchError where it is refused."""
        with _told("the job was refused"):
            self._client.submit_job(entrypoint=entrypoint, submission_id=job, metadata=dict(about))

    def follow(self, job: str, write: Callable[[str], None]) -> None:
        """Hand on its log from the beginning until it ends. Raises RaybenchError where the connection is lost."""

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(job):
                write(lines)

        with _told(f"the connection to job {job} was lost"):
            asyncio.run(tail())

    def ended(self, job: str, within_s: float = END_S) -> tuple[str, int | None]:
        """Its status and its exit code, waited for; the last status where it has none within so many seconds."""
        deadline = time.monotonic() + within_s
        while True:
            with _told(f"job {job}"):
                about = self._client.get_job_info(job)
            status = str(about.status.value if hasattr(about.status, "value") else about.status)
            if status in ENDED or time.monotonic() > deadline:
                return status, about.driver_exit_code
            time.sleep(0.5)

    def names(self) -> dict[str, str]:
        """Status of each job that was submitted, the latest last."""
        with _told("the jobs cannot be listed"):
            found = sorted(self._client.list_jobs(), key=lambda each: each.start_time or 0)
        return {each.submission_id: str(each.status.value) for each in found if each.submission_id}

    def stop(self, job: str) -> bool:
        """Have it end, as after Ctrl-C; whether it was running."""
        with _told(f"job {job} cannot be stopped"):
            return bool(self._client.stop_job(job))


@contextlib.contextmanager
def job_server(cluster: ClusterFile) -> Iterator[JobServer]:
    """The job server of a cluster, as long as this is entered. Raises RaybenchError where it cannot be reached."""
    token = token_of(cluster)
    # Ray would rather use these addresses than the one it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    configure(address="elsewhere")
    running = cluster.running()
    assert running.head is not None
    with tunnel(running.head, PORT) as port:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what is worth saying is raised
        with _told(f"Ray's job server on {running.head.address} does not answer"):
            # Not by Ray's own variables, which it has read by now: it was imported to look at the cluster file.
            headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
            client = JobSubmissionClient(f"http://127.0.0.1:{port}", headers=headers)
        yield JobServer(client)


def token_of(cluster: ClusterFile) -> Path:
    """The file of the cluster's token on this machine. Raises ConfigError where there is none."""
    named = (cluster.content.get("file_mounts") or {}).get(TOKEN_THERE)
    if named is None:
        raise ConfigError([f"{cluster.path}: file_mounts: {TOKEN_THERE} is missing, the token of Ray's ports"])
    token = at_home(named)
    if not token.is_file():
        make = (
            f'(umask 077; mkdir -p {token.parent}; python3 -c "import secrets; print(secrets.token_hex(32))" > {token})'
        )
        raise ConfigError([f"{token}: no such file, the token of Ray's ports; make it once:  {make}"])
    return token


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever the client raises, in a line."""
    try:
        yield
    except RaybenchError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise RaybenchError(f"{what}: {lines[0][:300]}") from None
