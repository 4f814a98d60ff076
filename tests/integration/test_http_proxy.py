"""`http.proxy`: every client uses it, and proxies of the environment are ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core.clients import http_client, open_bucket
from core.config.config import Config, Http
from core.config.file import load_config
from core.errors import Refused, RemoteError
from node.check import check_node
from tests.servers.http_server import HttpServer
from tests.servers.process import free_port

# It cannot be resolved: only a proxy can answer.
HOST = "elsewhere.invalid"


@pytest.fixture
def config(tmp_path: Path, server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "docker_registry": {"host": HOST, "proto": "http"},
                "http": {"proxy": f"http://user:word@127.0.0.1:{server.port}"},
                "s3": {"endpoint_url": f"http://{HOST}", "access_key": "key", "secret_key": "secret"},
                "mirror": {"cache_dir": "cache", "port": free_port(), "peer_port": free_port()},
            }
        )
    )
    return load_config(file)


def hosts_asked(server: HttpServer) -> set[str]:
    return {request.headers["Host"] for request in server.requests}


def test_the_http_client_goes_through_the_proxy(config: Config, server: HttpServer) -> None:
    server.on("*", lambda _, connection: connection.reply(200, b"through the proxy"))
    with http_client(config, 2, 20) as client:
        assert client.fetch("GET", f"http://{HOST}/v2/").body == b"through the proxy"
    assert hosts_asked(server) == {HOST}
    assert server.requests[0].headers["Proxy-Authorization"].startswith("Basic ")


def test_s3_goes_through_the_proxy(config: Config, server: HttpServer) -> None:
    server.on("*", lambda _, connection: connection.reply(403))
    with pytest.raises(RemoteError):
        open_bucket(config, "bucket").get("key", 100)
    assert hosts_asked(server) == {HOST}


def test_without_it_neither_goes_through_a_proxy_of_the_environment(
    config: Config, server: HttpServer
) -> None:
    server.on("*", lambda _, connection: connection.reply(403))
    s3 = config.s3.model_copy(update={"endpoint_url": server.url})
    config = config.model_copy(update={"http": Http(), "s3": s3})
    with http_client(config, 2, 20) as client:
        assert client.fetch("GET", f"{server.url}/v2/").status == 403
    with pytest.raises(Refused):
        open_bucket(config, "bucket").get("key", 100)
    assert hosts_asked(server) == {server.netloc}


def test_the_check_of_a_node_goes_through_the_proxy(
    config: Config, server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("*", lambda _, connection: connection.reply(200))
    check_node(config)
    assert "ok      registry" in capsys.readouterr().out
    assert hosts_asked(server) == {HOST}
