"""Container engines that pull; each returns the digest that it recorded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.servers.dockerd import Dockerd
from tests.servers.process import bound_to_parent, child_environment, require

COMMAND_SECONDS = 120


@dataclass(frozen=True)
class Login:
    """A user and the password."""

    user: str
    password: str

    def __str__(self) -> str:
        return f"{self.user}:{self.password}"


class PullFailed(Exception):
    """The engine's command failed. The message is its output."""


class Engine(Protocol):
    """One engine. `reference` is `host:port/repository:tag` or `…@digest`; it is pulled again each time."""

    def pull(self, reference: str, login: Login | None) -> str:
        """Pull, and return the digest recorded for the reference. Raises PullFailed."""
        ...


class Docker:
    """`docker pull`, by dockerd."""

    def __init__(self, daemon: Dockerd, home: Path) -> None:
        self._home = home
        self._docker: list[str | Path] = [require("docker", "docker.io"), "--host", daemon.host]

    def pull(self, reference: str, login: Login | None) -> str:
        repository = _repository(reference)
        self._logged_in(reference, login, "pull", reference)
        recorded = json.loads(_run([*self._docker, "image", "inspect", reference], self._home))[0]
        _run([*self._docker, "image", "rm", "--force", recorded["Id"]], self._home)
        digests: list[str] = [
            found.partition("@")[2] for found in recorded["RepoDigests"] if found.startswith(repository + "@")
        ]
        assert len(digests) == 1
        return digests[0]

    def push(self, reference: str, archive: Path, tag: str, login: Login | None) -> None:
        """Push the image `tag` of a `docker save` archive under `reference`."""
        _run([*self._docker, "load", "--input", archive], self._home)
        _run([*self._docker, "tag", tag, reference], self._home)
        self._logged_in(reference, login, "push", reference)
        _run([*self._docker, "image", "rm", "--force", tag, reference], self._home)

    def _logged_in(self, reference: str, login: Login | None, *words: str) -> None:
        host = reference.partition("/")[0]
        if login is not None:
            sent = [*self._docker, "login", "--username", login.user, "--password-stdin", host]
            _run(sent, self._home, stdin=login.password)
        try:
            _run([*self._docker, *words], self._home)
        finally:
            if login is not None:
                _run([*self._docker, "logout", host], self._home)


class Containerd:
    """`ctr images pull`, by dockerd's containerd. `hosts_dir` is where it finds mirrors."""

    def __init__(self, daemon: Dockerd, home: Path, hosts_dir: Path | None = None) -> None:
        self._home = home
        self._how = [f"--hosts-dir={hosts_dir}"] if hosts_dir else ["--plain-http"]
        ctr = require("ctr", "containerd")
        self._images: list[str | Path] = [
            ctr,
            "--address",
            daemon.containerd,
            "--namespace",
            "tests",
            "images",
        ]

    def pull(self, reference: str, login: Login | None) -> str:
        user = ["--user", str(login)] if login else []
        # The other snapshotters need kernel modules or file systems that a test machine may lack.
        _run([*self._images, "pull", *self._how, "--snapshotter=native", *user, reference], self._home)
        table = _run([*self._images, "list", f"name=={reference}"], self._home).splitlines()
        _run([*self._images, "rm", "--sync", reference], self._home)
        name, _, digest = table[1].split()[:3]
        assert name == reference
        return digest


class Skopeo:
    """`skopeo copy` to a folder, then `skopeo inspect`. Mirrors are found in `home/.config/containers`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._skopeo = require("skopeo", "skopeo")

    def pull(self, reference: str, login: Login | None) -> str:
        source = f"docker://{reference}"
        target = self._home / "copied"
        copy: list[str | Path] = [
            self._skopeo,
            "--insecure-policy",
            "copy",
            "--all",
            "--src-tls-verify=false",
        ]
        _run([*copy, *_creds("--src-creds", login), source, f"dir:{target}"], self._home)
        inspect: list[str | Path] = [self._skopeo, "inspect", "--tls-verify=false", "--format={{.Digest}}"]
        return _run([*inspect, *_creds("--creds", login), source], self._home).strip()

    def archive(self, reference: str, path: Path, tag: str, login: Login | None) -> None:
        """Make a `docker save` archive of an image; in it, its name is `tag`."""
        copy: list[str | Path] = [self._skopeo, "--insecure-policy", "copy", "--src-tls-verify=false"]
        target = f"docker-archive:{path}:{tag}"
        _run([*copy, *_creds("--src-creds", login), f"docker://{reference}", target], self._home)


class Podman:
    """`podman pull`. Mirrors are found in `home/.config/containers`. It takes no `home` of more than some 40
    characters.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        places = [f"--root={home / 'storage'}", f"--runroot={home / 'run'}", "--storage-driver=vfs"]
        self._podman: list[str | Path] = [require("podman", "podman"), *places]

    def pull(self, reference: str, login: Login | None) -> str:
        pull = [*self._podman, "pull", "--quiet", "--tls-verify=false"]
        _run([*pull, *_creds("--creds", login), reference], self._home)
        inspected = [*self._podman, "image", "inspect", "--format={{.Digest}}", reference]
        digest = _run(inspected, self._home).strip()
        _run([*self._podman, "rmi", "--all", "--force"], self._home)
        return digest


def _repository(reference: str) -> str:
    return reference.partition("@")[0] if "@" in reference else reference.rpartition(":")[0]


def _creds(option: str, login: Login | None) -> list[str]:
    return [f"{option}={login}"] if login else []


def _run(argv: Sequence[str | Path], home: Path, stdin: str | None = None) -> str:
    done = subprocess.run(
        bound_to_parent(argv),
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        env=child_environment({"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}),
    )
    if done.returncode != 0:
        raise PullFailed(f"{argv[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
