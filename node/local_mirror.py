"""A client of the running mirror of this machine, for the subcommands of `mirror`."""

from __future__ import annotations

import json
from typing import Any

from core.config.config import DockerRegistry
from core.config.mirror import Mirror
from core.digest import Digest
from core.errors import BadAnswer, Unavailable
from core.http.client import HttpAnswer, HttpClient

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect to
_STATUS_LIMIT = 64 * 1024 * 1024


class LocalMirror:
    """The client. Its methods raise RemoteError, with advice if the mirror does not run."""

    def __init__(self, mirror: Mirror, http: HttpClient) -> None:
        address = _WILDCARDS.get(mirror.host, mirror.host)
        self.netloc = f"[{address}]:{mirror.port}" if ":" in address else f"{address}:{mirror.port}"
        self._http = http

    def as_registry(self, settings: DockerRegistry) -> DockerRegistry:
        """Return the configuration of a registry client that pulls through the mirror."""
        return DockerRegistry(
            host=self.netloc,
            proto="http",
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
        )

    def status(self) -> dict[str, Any]:
        """Return the output of `mirror status --json`."""
        answer = self._request("GET", "status")
        try:
            status = json.loads(answer.body)
        except ValueError:
            status = None
        if answer.status != 200 or not isinstance(status, dict) or "cache" not in status:
            raise BadAnswer(str(answer.target), f"status {answer.status}: is this port another program's?")
        return status

    def drop(self, digest: Digest) -> bool:
        """Remove a layer from the cache. Return False if it is not cached, or in use."""
        answer = self._request("DELETE", f"layers/{digest}")
        return answer.status != 404 and _changed(answer)

    def pin(self, digest: Digest) -> None:
        """Protect a layer from eviction."""
        _changed(self._request("PUT", f"pins/{digest}"))

    def _request(self, method: str, path: str) -> HttpAnswer:
        url = f"http://{self.netloc}/v0/mirror/{path}"
        try:
            return self._http.fetch(method, url, limit=_STATUS_LIMIT)
        except Unavailable as error:
            why = f"{error.why}; is the mirror running (docker_torrents mirror)?"
            raise Unavailable(f"http://{self.netloc}", why) from error


def _changed(answer: HttpAnswer) -> bool:
    if answer.status != 204:
        raise BadAnswer(str(answer.target), f"status {answer.status}: see the log of the mirror")
    return True
