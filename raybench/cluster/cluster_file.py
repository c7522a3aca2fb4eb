"""A cluster file as `ray up` takes it: read, everything that is wrong with it told at once, and what we need of it."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raybench.cluster.ssh import Host
from raybench.config import price
from raybench.config.document import load
from raybench.config.folders import at_home
from raybench.config.names import nearest
from raybench.errors import ConfigError, RaybenchError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]*")
EVERY = ("type", "price_per_hour")
PROVIDER = {
    "local": (*EVERY, "head_ip", "worker_ips"),
    "aws": (
        *(*EVERY, "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"),
        *("security_group", "key_pair", "cloudwatch"),
    ),
    "gcp": (
        *(*EVERY, "region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips"),
        "gcp_credentials",
    ),
}
"""Keys of `provider` that Ray or the tables read, by its type. Ray's own schema lets any key of it pass."""
TOKEN = "RAY_AUTH_MODE=token"
LOOPBACK = "127.0.0.1"
DASHBOARD = f"--dashboard-host={LOOPBACK}"
START = re.compile(
    rf"(?P<token>\b{TOKEN}\s+(?:\w+=\S*\s+)*)?(?<![\w./-])(?:[^\s;&|()]*/)?ray\s+start\b(?P<options>[^;&|\n]*)"
)
"""A start of Ray in a command line, with the token's variable where that is set for it, and its options."""
SHOWN_ON = re.compile(r"--dashboard-host(?:=|\s+)(\S*)")


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file says of who is in the cluster and how they are reached."""

    path: Path
    name: str
    provider: str
    head: Host | None
    """None on a cloud, where machines have addresses once they run (`running`)."""
    workers: tuple[Host, ...]
    user: str
    key: Path | None
    content: dict[str, Any]

    def running(self) -> ClusterFile:
        """With the addresses of the machines that run now, asked of the cloud where they are not in the file.

        Raises RaybenchError where no head runs, or the cloud does not tell.
        """
        if self.head is not None:
            return self
        from ray.autoscaler.sdk import get_head_node_ip, get_worker_node_ips

        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                head, workers = get_head_node_ip(str(self.path)), get_worker_node_ips(str(self.path))
        except (Exception, SystemExit) as error:
            text = " ".join((str(error) or said.getvalue()).split())[:300]
            raise RaybenchError(f"{self.path}: no running head found ({text}); start one: ray up {self.path}") from None
        return ClusterFile(
            self.path,
            self.name,
            self.provider,
            self._host(head),
            tuple(self._host(each) for each in workers),
            self.user,
            self.key,
            self.content,
        )

    def _host(self, address: str) -> Host:
        return Host(address, self.user, self.key)


def read_cluster_file(path: Path) -> ClusterFile:
    """Read and check it. Raises ConfigError with every fault, each naming the key, the rule and the value."""
    try:
        content = load(path.read_text())
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; in a clone there are cluster.yaml and clusters/*.yaml"]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: cannot be read: {' '.join(str(error).split())}"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: must be a mapping"])
    faults = dict.fromkeys([*_against_schema(content), *_own_rules(content)])
    if not faults:
        faults = dict.fromkeys(_ray_refuses(content))
    if faults:
        raise ConfigError([f"{path}: {fault}" for fault in faults])
    provider, auth = content["provider"], content["auth"]
    key = at_home(auth["ssh_private_key"]) if auth.get("ssh_private_key") else None
    local = provider["type"] == "local"
    return ClusterFile(
        path=path,
        name=content["cluster_name"],
        provider=provider["type"],
        head=Host(provider["head_ip"], auth["ssh_user"], key) if local else None,
        workers=tuple(Host(each, auth["ssh_user"], key) for each in provider["worker_ips"]) if local else (),
        user=auth["ssh_user"],
        key=key,
        content=content,
    )


def _against_schema(content: dict[str, Any]) -> Iterator[str]:
    """Every fault that Ray's own schema finds, the nearest known key beside an unknown one."""
    import json

    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    if isinstance(content.get("provider"), dict) and content["provider"].get("type") not in ("aws", "gcp"):
        # Ray takes it of machines of one's own and moves it before it validates.
        schema["properties"]["min_workers"] = schema["properties"]["max_workers"]
    for fault in sorted(jsonschema.Draft7Validator(schema).iter_errors(content), key=lambda each: each.json_path):
        place = ".".join(map(str, fault.absolute_path))
        if fault.validator == "additionalProperties":
            known = tuple(fault.schema.get("properties", {}))
            for name in sorted(set(fault.instance) - set(known)):
                yield no_such_key(f"{place}.{name}" if place else name, name, known)
        elif fault.validator == "required":
            yield f"{place}: {fault.message}" if place else fault.message
        else:
            yield f"{place} = {str(fault.instance)[:60]}: {fault.message.rpartition(' is ')[2] or fault.message}"


def no_such_key(key: str, name: str, known: tuple[str, ...]) -> str:
    """That there is no such key, and which may have been meant."""
    near = nearest(name, known, n=1)
    return f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}")


def _own_rules(content: dict[str, Any]) -> Iterator[str]:
    """What Ray lets pass and we do not: other keys of the provider, text that a shell would read, open doors.

    What is of a wrong type the schema has told already.
    """
    provider = content.get("provider")
    if not isinstance(provider, dict):
        return
    kind = provider.get("type")
    if not isinstance(kind, str) or kind not in PROVIDER:
        yield f"provider.type = {kind}: must be {', '.join(PROVIDER)}"
        return
    for name in sorted(set(map(str, provider)) - set(PROVIDER[kind])):
        yield no_such_key(f"provider.{name}", name, PROVIDER[kind])
    if "price_per_hour" in provider and (fault := price.refused(provider["price_per_hour"])):
        yield fault
    yield from _plain("cluster_name", content.get("cluster_name"), NAME, "letters, digits and hyphens")
    yield from _access(content.get("auth", {}))
    if kind == "local":
        yield from _addresses(content, provider)
    for role in ("head", "worker"):
        yield from _starts(role, content.get(f"{role}_start_ray_commands"))


def _access(auth: object) -> Iterator[str]:
    if not isinstance(auth, dict):
        return
    if "ssh_user" not in auth:
        yield "auth.ssh_user: is missing"
    yield from _plain("auth.ssh_user", auth.get("ssh_user"), USER, "a user's name")
    if str(at_home(str(auth.get("ssh_private_key")))).startswith("~"):
        yield f"auth.ssh_private_key = {auth['ssh_private_key']}: there is no such user here"


def _addresses(content: dict[str, Any], provider: dict[str, Any]) -> Iterator[str]:
    for key, hint in (("head_ip", ""), ("worker_ips", "; [] for a head alone")):
        if provider.get(key) is None:
            yield f"provider.{key}: is missing{hint}"
    workers = provider.get("worker_ips")
    if not isinstance(workers, list):
        return
    for place, each in enumerate(workers):
        if not isinstance(each, str):
            yield f"provider.worker_ips.{place} = {str(each)[:60]!r}: must be an address"
    named = {f"provider.worker_ips.{place}": each for place, each in enumerate(workers)}
    named |= {"provider.head_ip": provider.get("head_ip")}
    named = {key: each for key, each in named.items() if isinstance(each, str)}
    for key, address in named.items():
        yield from _plain(key, address, ADDRESS, "an address")
    for address in sorted({each for each in named.values() if list(named.values()).count(each) > 1}):
        yield f"provider: {address} stands there twice"
    for key in ("min_workers", "max_workers"):
        if isinstance(content.get(key), int) and content[key] != len(workers):
            yield f"{key} = {content[key]}: must be the number of worker_ips, {len(workers)}"


def _starts(role: str, commands: object) -> Iterator[str]:
    """What is wrong with how Ray is started; each start of it is looked at, however many there are in a command."""
    key = f"{role}_start_ray_commands"
    if commands is None:
        yield f"{key}: is missing; Ray's own would start it without {TOKEN}"
        return
    if not isinstance(commands, list):
        return
    starts = [start for each in commands for start in START.finditer(str(each))]
    if not starts:
        yield f"{key}: has no `{TOKEN} ray start`"
    if any(start["token"] is None for start in starts):
        yield (
            f"{key}: `ray start` without {TOKEN} right before it: whoever reaches its ports could run code; "
            f"write `{TOKEN} ray start`"
        )
    hosts = [SHOWN_ON.findall(start["options"]) for start in starts if role == "head" or "--head" in start["options"]]
    if any(each != [LOOPBACK] for each in hosts):
        yield f"{key}: `ray start` without {DASHBOARD}, or with another one: it would be open to the network"


def _plain(key: str, value: object, pattern: re.Pattern[str], rule: str) -> Iterator[str]:
    """Ray puts these into command lines and file names."""
    if isinstance(value, str) and not pattern.fullmatch(value):
        yield f"{key} = {value[:60]!r}: must be {rule}"


def _ray_refuses(content: dict[str, Any]) -> Iterator[str]:
    """What Ray says when it fills in its defaults and validates, as `ray up` does before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            validate_config(prepare_config(copy.deepcopy(content)))
    except (Exception, SystemExit) as error:
        yield " ".join((str(error) or said.getvalue() or type(error).__name__).split())[:300]
