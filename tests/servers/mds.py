"""A stand-in for MDS over real HTTP: `GET /get-<namespace>/<key>`, with Range, and optional redirects."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.bad_http import redirecting, replying, serving
from tests.servers.http_server import Answer, Connection, HttpServer, Request, start_http_server


@dataclass
class Mds:
    """A running MDS. Files are found by the keys that it assigns, not by their names.

    While it is `refusing`, requests for files are answered with 403.
    """

    server: HttpServer
    namespace: str
    refusing: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(30_001), repr=False)

    def __post_init__(self) -> None:
        self.server.on(self.path("*").rstrip("/"), self._unless_refusing(replying(404)))

    @property
    def url_template(self) -> str:
        """The setting `mds.url_template`."""
        return f"{self.server.url}/{{payload}}/"

    def put(self, name: str, content: bytes, *, redirect: bool = False) -> str:
        """Store a file. Return the `mdsfileinfo` of its row in the table `mds`."""
        key = f"{next(self._numbers)}/{name}"
        if redirect:
            self.server.on(f"/storage/{key}", serving(content))
            self.server.on(self.path(key), self._unless_refusing(redirecting(f"/storage/{key}", 307)))
        else:
            self.server.on(self.path(key), self._unless_refusing(serving(content)))
        return json.dumps({"key": key, "size": len(content), "id": f"0:{len(content)}"})

    def delete(self, mdsfileinfo: str) -> None:
        """Forget a file."""
        self.server.on(self.path(json.loads(mdsfileinfo)["key"]), replying(404))

    def path(self, key: str) -> str:
        """Return the path of a file's URL."""
        return f"/get-{self.namespace}/{key}/"

    def _unless_refusing(self, honest: Answer) -> Answer:
        def answer(request: Request, connection: Connection) -> None:
            (replying(403) if self.refusing else honest)(request, connection)

        return answer


@contextmanager
def start_mds(namespace: str = "docker-registry") -> Iterator[Mds]:
    """Run an empty MDS."""
    with start_http_server() as server:
        yield Mds(server, namespace)
