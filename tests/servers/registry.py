"""A real docker/distribution registry: Debian's docker-registry 2.8 on a free port."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import bcrypt
import requests

from tests.servers.process import ServerProcess, free_port, listening, require
from tests.servers.waiting import comes_true

# Part of the stack of a request that is not in the access log yet.
_IN_WORK = "handlers.loggingHandler.ServeHTTP("
# An access log's line: `… "GET /v2/ubuntu/tags/list HTTP/1.1" 200 …`.
_ACCESS = re.compile(r'"([A-Z]+) (\S+) HTTP/[0-9.]+" (\d{3}) (\d+)')


class S3Storage(TypedDict):
    """The S3 storage of a registry. `endpoint` is a URL such as moto's.

    `rootdirectory` is the prefix in the bucket, `/` by default.
    """

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    rootdirectory: NotRequired[str]


class TokenAuth(TypedDict):
    """The token server that a registry trusts (distribution's `auth.token`). `certbundle` is a PEM file.

    With `autoredirect` the realm is made of the request's Host.
    """

    realm: str
    service: str
    issuer: str
    certbundle: str
    autoredirect: NotRequired[bool]


class Endpoint(TypedDict, total=False):
    """A receiver of push notifications (distribution's `notifications.endpoints`); `url` is required.

    `timeout` and `backoff` are Go durations such as `500ms`.
    """

    name: str
    url: str
    headers: dict[str, list[str]]
    timeout: str
    threshold: int
    backoff: str
    ignore: dict[str, list[str]]


@dataclass(frozen=True)
class Registry:
    """A running registry. `storage` is its root directory, empty if it stores in S3.

    `debug_port` serves the stacks of its goroutines (Go's net/http/pprof).
    """

    host: str
    port: int
    debug_port: int
    storage: Path
    process: ServerProcess

    @property
    def netloc(self) -> str:
        """`host:port`, as in image names and the setting `docker_registry.host`."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self.netloc}"

    def start(self) -> None:
        """Start it again on the same port, with its storage."""
        self.process.start()

    def stop(self) -> None:
        """Stop it; its storage stays."""
        self.process.stop()

    def kill(self) -> None:
        """End it like a crash: unsent events are lost."""
        self.process.kill()

    def blob_file(self, digest: str) -> Path:
        """Return the file of the blob `digest` (`sha256:<hex>`), for tests that damage it."""
        hex_digits = digest.removeprefix("sha256:")
        blobs = self.storage / "docker/registry/v2/blobs/sha256"
        return blobs / hex_digits[:2] / hex_digits / "data"

    def requests(self) -> list[tuple[str, str, int]]:
        """Return method, path with query, and status of every answered request."""
        return [(method, path, int(status)) for method, path, status, _ in self._answered()]

    def sent(self, digest: str) -> int:
        """Return how many bytes of a blob it has sent."""
        end = f"/blobs/{digest}"
        return sum(
            int(size) for method, path, _, size in self._answered() if method == "GET" and path.endswith(end)
        )

    def _answered(self) -> list[tuple[str, str, str, str]]:
        """Return the answered requests. Waits until no request is in progress, as the line of a large body is
        written after the client has received all of it.
        """
        assert comes_true(self._is_idle, timeout=120), "a request is not answered"
        return _ACCESS.findall(self.process.log.read_text(errors="replace"))

    def _is_idle(self) -> bool:
        if not self.process.alive:
            return True
        stacks = f"http://{self.host}:{self.debug_port}/debug/pprof/goroutine?debug=2"
        return _IN_WORK not in requests.get(stacks, timeout=60).text


@contextmanager
def start_registry(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    htpasswd: Mapping[str, str] | None = None,
    s3: S3Storage | None = None,
    token: TokenAuth | None = None,
    notifications: Sequence[Endpoint] | None = None,
    includereferences: bool = False,
    delete: bool = False,
    redirect: bool = True,
    cache: bool = False,
    access_log: bool = True,
) -> Iterator[Registry]:
    """Run a registry whose configuration, log and storage are in `folder`.

    `htpasswd` maps users to passwords; `delete` allows deleting; `redirect` redirects readers of blobs to
    S3; `cache` keeps blob descriptors in memory, as most registries do (then a blob whose file was removed
    still seems to exist). Raises ServerMissing, ServerFailed.
    """
    binary = require("docker-registry", "docker-registry")
    storage = folder / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    port, debug_port = free_port(), free_port()
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": not access_log}},
        "storage": {
            **_storage_driver(storage, s3),
            "delete": {"enabled": delete},
            "redirect": {"disable": not redirect},
            # Its sweep for stale uploads would read the whole storage at a random moment.
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {
            "addr": f"{host}:{port}",
            "secret": "only for tests",
            "debug": {"addr": f"{host}:{debug_port}"},
        },
        "notifications": {
            "events": {"includereferences": includereferences},
            "endpoints": [
                {"name": f"endpoint{number}", **endpoint}
                for number, endpoint in enumerate(notifications or [])
            ],
        },
    }
    if cache:
        config["storage"]["cache"] = {"blobdescriptor": "inmemory"}
    if htpasswd is not None:
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(_htpasswd_file(folder, htpasswd))}}
    if token is not None:
        config["auth"] = {"token": {**token, "rootcertbundle": token["certbundle"]}}
        del config["auth"]["token"]["certbundle"]
    config_file = folder / "config.yml"
    config_file.write_text(json.dumps(config, indent=2))  # JSON is YAML
    process = ServerProcess(
        [binary, "serve", config_file],
        ready=lambda: listening(debug_port, host)() and listening(port, host)(),
        log=folder / "registry.log",
    )
    process.start()
    try:
        yield Registry(host, port, debug_port, storage, process)
    finally:
        process.stop()


def _storage_driver(storage: Path, s3: S3Storage | None) -> dict[str, Any]:
    if s3 is None:
        return {"filesystem": {"rootdirectory": str(storage)}}
    return {
        "s3": {
            "regionendpoint": s3["endpoint"],
            "region": "us-east-1",
            "bucket": s3["bucket"],
            "accesskey": s3["access_key"],
            "secretkey": s3["secret_key"],
            "secure": False,
            "v4auth": True,
            "rootdirectory": s3.get("rootdirectory", "/"),
        }
    }


def _htpasswd_file(folder: Path, passwords: Mapping[str, str]) -> Path:
    """Write the file, and return its path. The registry requires bcrypt; few rounds, as each request pays for them."""
    lines = [
        f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()}\n"
        for user, password in passwords.items()
    ]
    path = folder / "htpasswd"
    path.write_text("".join(lines))
    return path
