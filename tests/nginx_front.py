"""The shipped deploy/nginx.conf in a real nginx: only addresses are changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.nginx import Nginx, start_nginx

SHIPPED = Path(__file__).parents[1] / "deploy/nginx.conf"


@contextmanager
def nginx_front(
    folder: Path,
    *,
    registry: str,
    app: str,
    fallback: bool = False,
    host: str = "127.0.0.1",
    certificate: Path | None = None,
    port: int | None = None,
    header_timeout: str = "30s",
) -> Iterator[Nginx]:
    """Run nginx in front of these two (`host:port`). `fallback` uncomments the lines by which pulls continue
    while the app is down. With `certificate`, a PEM file, it uses TLS. `header_timeout` is the time for the
    head of a request.
    """

    def http(port: int) -> str:
        listen = f"listen {host}:{port};"
        if certificate is not None:
            listen = (
                f"listen {host}:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};"
            )
        changes = {
            "server 127.0.0.1:5000;": f"server {registry};",
            "listen 80;": listen,
            "/var/log/nginx/access.log combined": f"{folder}/access.log tests",
            "client_header_timeout 30s;": f"client_header_timeout {header_timeout};",
        }
        if fallback:
            changes["#error_page"] = "error_page"
            for line in ("location @registry {", "    proxy_pass http://docker_registry;", "}"):
                changes[f"    #{line}"] = line
        text = SHIPPED.read_text()
        # For swarm calls, and for all others.
        text = text.replace("server 127.0.0.1:10050;", f"server {app};")
        for shipped, changed in changes.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, changed)
        return text

    with start_nginx(folder, http, host=host, port=port) as nginx:
        yield nginx
