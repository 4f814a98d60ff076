"""A real nginx: in front of something, or serving a folder at a bounded rate."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import ServerProcess, free_port, listening, require

_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes {workers};
{user}
events {{ worker_connections 4096; }}
http {{
    log_format tests '$request_method $request_uri $status $body_bytes_sent';
    access_log {folder}/access.log tests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    sendfile on;
    {http}
}}
"""
_SERVE_FOLDER = """
server {{
    listen {host}:{port};
    root {root};
    limit_rate {limit_rate};
}}
"""
_ACCESS = re.compile(r"^(\S+) (\S+) (\d{3}) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Served:
    """One request that nginx has answered; `sent` are the bytes of the body sent."""

    method: str
    path: str
    status: int
    sent: int


@dataclass(frozen=True)
class Nginx:
    """A running nginx; `url` is of its port, without a slash at the end."""

    host: str
    port: int
    folder: Path
    process: ServerProcess

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{self.host}:{self.port}"

    def requests(self) -> list[Served]:
        """Return the answered requests so far. A request is logged only when its last byte was sent."""
        log = (self.folder / "access.log").read_text()
        return [
            Served(method, path, int(status), int(sent))
            for method, path, status, sent in _ACCESS.findall(log)
        ]

    def start(self) -> None:
        """Start it again on the same port."""
        self.process.start()

    def stop(self) -> None:
        """Stop it; connections are cut."""
        self.process.stop()


@contextmanager
def start_nginx(
    folder: Path,
    http: Callable[[int], str],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    workers: int = 1,
) -> Iterator[Nginx]:
    """Run nginx with `http(port)`, `server` blocks and similar, in the `http` block of its configuration.

    `folder` takes its configuration and logs. Raises ServerMissing, ServerFailed.
    """
    binary = require("nginx", "nginx")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    # By default root's nginx runs its workers as www-data, who may not read pytest's folders.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_MAIN.format(folder=folder, workers=workers, user=user, http=http(port)))
    process = ServerProcess(
        [binary, "-p", folder, "-c", config, "-e", folder / "error.log"],
        ready=listening(port, host),
        log=folder / "nginx.log",
        # Its workers would outlive it after SIGKILL.
        death_signal=signal.SIGTERM,
    )
    process.start()
    try:
        yield Nginx(host, port, folder, process)
    finally:
        process.stop()


@contextmanager
def serve_folder(
    folder: Path, root: Path, *, limit_rate: int = 0, host: str = "127.0.0.1", workers: int = 1
) -> Iterator[Nginx]:
    """Serve the files of `root`, Range and all, to each connection at `limit_rate` bytes/s; 0 is no limit.

    nginx sends the first second's worth at once, at the start of every answer.
    """

    def http(port: int) -> str:
        return _SERVE_FOLDER.format(host=host, port=port, root=root, limit_rate=limit_rate)

    with start_nginx(folder, http, host=host, workers=workers) as nginx:
        yield nginx
