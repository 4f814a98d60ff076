"""The engines: the files that point each at the mirror, and notes for operators."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from core.config.config import Config
from core.errors import EngineConfigInvalid
from node.engines import hosts_toml, k3s_registries, registries_conf

_DROP_IN = "zz-docker-torrents.conf"
"""Drop-ins are read in the order of their names: ours is last."""
_CRI_TABLES = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
"""The tables with config_path in containerd 1.x and 2.x."""
_DOCKER_HOSTS_TOML_SINCE = 28
_Value = TypeVar("_Value")


class Run(Protocol):
    """Runs a program and returns its output, empty if it fails."""

    def __call__(self, *command: str) -> str: ...


@dataclass(frozen=True)
class Mirror:
    """The mirror as engines reach it, and the registry behind it."""

    netloc: str
    names: tuple[str, ...]
    """The registry's names in images: `registry.example.com` in `registry.example.com/library/ubuntu`."""
    registry_url: str

    @classmethod
    def of(cls, config: Config) -> Mirror:
        """Return the mirror of this configuration."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.mirror.host, config.mirror.host)  # noqa: S104
        netloc = f"[{host}]:{config.mirror.port}" if ":" in host else f"{host}:{config.mirror.port}"
        registry = config.docker_registry
        names = dict.fromkeys((registry.host, *config.mirror.registry_names))
        return cls(netloc, tuple(names), f"{registry.proto}://{registry.host}")

    @property
    def url(self) -> str:
        """The mirror's URL. It has no TLS: it is on this machine."""
        return f"http://{self.netloc}"


@dataclass(frozen=True)
class Change:
    """The intended content of a file, None if it should not exist."""

    path: Path
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Plan:
    """The changes for an engine: files, and notes for the operator."""

    changes: Sequence[Change]
    notes: Sequence[str] = ()


def run(*command: str) -> str:
    """Run a program that describes itself. Return an empty text if it is missing, fails, or takes 10 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout


def _run_nothing(*command: str) -> str:
    return ""


class Engines:
    """The engines of a machine whose file system begins at `root`. Programs are run on this machine only."""

    def __init__(self, root: Path = Path("/"), run: Run = run) -> None:
        self._root = root
        self._run = run if root == Path("/") else _run_nothing
        self._plans: dict[str, Callable[[Mirror, bool], Plan]] = {
            "containerd": self._containerd,
            "docker": self._docker,
            "podman": self._podman,
            "crio": self._crio,
            "k3s": self._k3s,
        }

    def installed(self) -> list[str]:
        """Return the names of the engines that are installed."""
        programs = {"docker": "dockerd"}
        folders = {"docker": "etc/docker", "podman": "etc/containers", "k3s": "etc/rancher/k3s"}
        return [
            name
            for name in self._plans
            if (self._root == Path("/") and shutil.which(programs.get(name, name)))
            or (self._root / folders.get(name, f"etc/{name}")).is_dir()
        ]

    def plan(self, engine: str, mirror: Mirror, *, remove: bool = False) -> Plan:
        """Return the plan that points the engine at the mirror, or with `remove` undoes that.

        Raises EngineConfigInvalid, or OSError if a file cannot be read.
        """
        return self._plans[engine](mirror, remove)

    def _containerd(self, mirror: Mirror, remove: bool) -> Plan:
        config = self._run("containerd", "config", "dump") or self._read("etc/containerd/config.toml") or ""
        configured = config_path(config)
        folder = (configured or "/etc/containerd/certs.d").split(":")[0].lstrip("/")
        notes = []
        if not configured:
            table = _CRI_TABLES["version = 3" in config]
            notes.append(
                f'containerd: for Kubernetes set config_path = "/{folder}" in [plugins."{table}".registry] '
                f"of /etc/containerd/config.toml and restart containerd; nerdctl reads /{folder} without, "
                "ctr with --hosts-dir"
            )
        if (version := _version(self._run("containerd", "--version"))) and version < (1, 5):
            notes.append("containerd: hosts.toml is read from 1.5 on")
        return Plan(self._hosts_toml(folder, mirror, remove), () if remove else notes)

    def _docker(self, mirror: Mirror, remove: bool) -> Plan:
        version = _version(self._run("dockerd", "--version"))
        pull = f"pull {mirror.netloc}/NAME:TAG in place of {mirror.names[0]}/NAME:TAG"
        if version and version < (_DOCKER_HOSTS_TOML_SINCE,) and not remove:
            shown = ".".join(map(str, version))
            return Plan((), [f"docker: {shown} uses mirrors for Docker Hub only: {pull}"])
        note = (
            f"docker: uses the mirror from {_DOCKER_HOSTS_TOML_SINCE}.0 on with the containerd image store "
            f"(`docker info` shows io.containerd.snapshotter.v1); with the older image store {pull}"
        )
        return Plan(self._hosts_toml("etc/docker/certs.d", mirror, remove), () if remove else [note])

    def _podman(self, mirror: Mirror, remove: bool) -> Plan:
        note = (
            f"podman: for private images run `podman login --tls-verify=false {mirror.netloc}`: "
            "podman sends a mirror only the credentials stored for the mirror"
        )
        return Plan(self._drop_in(mirror, remove), () if remove else [note])

    def _crio(self, mirror: Mirror, remove: bool) -> Plan:
        notes = ["crio: run `systemctl reload crio`"]
        if not remove:
            notes.append(
                "crio: pull secrets of Kubernetes never reach a mirror: images that need them come from the "
                "registry"
            )
        return Plan(self._drop_in(mirror, remove), notes)

    def _k3s(self, mirror: Mirror, remove: bool) -> Plan:
        path = self._root / "etc/rancher/k3s/registries.yaml"
        before = _read(path)
        if remove:
            after = (
                None if before is None else _some(_about(path, lambda: k3s_registries.remove_mirror(before)))
            )
        else:
            after = _about(path, lambda: k3s_registries.add_mirror(before or "", mirror.names, mirror.url))
        notes = ["k3s: run `systemctl restart k3s` (on agents k3s-agent)"]
        return Plan([Change(path, before, after)], notes if before != after else ())

    def _hosts_toml(self, folder: str, mirror: Mirror, remove: bool) -> list[Change]:
        return [
            _hosts_toml(self._root / folder / name / "hosts.toml", mirror, remove) for name in mirror.names
        ]

    def _drop_in(self, mirror: Mirror, remove: bool) -> list[Change]:
        folder = self._root / "etc/containers/registries.conf.d"
        path = folder / _DROP_IN
        if remove:
            return [Change(path, _read(path), None)]
        files = [folder.with_name("registries.conf"), *sorted(folder.glob("*.conf"))]
        known: dict[str, registries_conf.Registry] = {}
        for file in files:
            if file != path and (text := _read(file)):
                known |= _about(file, partial(registries_conf.registries, text))
        insecure = mirror.registry_url.startswith("http://")
        after = registries_conf.render(mirror.names, mirror.netloc, known, insecure=insecure)
        return [Change(path, _read(path), after)]

    def _read(self, path: str) -> str | None:
        return _read(self._root / path)


def config_path(config: str) -> str | None:
    """Return the folder in which containerd looks for hosts.toml, None if it does not."""
    try:
        plugins: Any = tomllib.loads(config).get("plugins", {})
    except (ValueError, RecursionError):
        return None
    for table in _CRI_TABLES:
        # A table may be missing, or be something else.
        with suppress(LookupError, TypeError):
            if found := plugins[table]["registry"]["config_path"]:
                return str(found)
    return None


def _hosts_toml(path: Path, mirror: Mirror, remove: bool) -> Change:
    before = _read(path)
    if remove:
        after = None if before is None else _some(_about(path, lambda: hosts_toml.remove_mirror(before)))
    else:
        after = _about(path, lambda: hosts_toml.add_mirror(before or "", mirror.url, mirror.registry_url))
    return Change(path, before, after)


def _read(path: Path) -> str | None:
    try:
        # Line ends stay as they are.
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise EngineConfigInvalid(f"{path}: not UTF-8") from None


def _about(path: Path, read: Callable[[], _Value]) -> _Value:
    """Name the file in the error."""
    try:
        return read()
    except EngineConfigInvalid as error:
        raise EngineConfigInvalid(f"{path}: {error.why}") from None


def _some(text: str) -> str | None:
    return text if text.strip() else None


def _version(text: str) -> tuple[int, ...] | None:
    found = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else None
