"""The commands of `mirror`, stopping it, and its status for operators."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from core.config.mirror import Mirror
from core.errors import BadAnswer
from core.http.client import HttpClient
from node.local_mirror import LocalMirror
from node.prefetch import AT_ONCE
from node.status import DownloadStatus
from tests.installation import Installation
from tests.mirror_process import MirrorProcess, start_mirror
from tests.servers.bad_http import replying, silent
from tests.servers.http_server import Connection, HttpServer, Request, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.process import free_port
from tests.servers.push import CONFIG, LAYER, MANIFEST, Descriptor, PushedImage, push_image, push_index
from tests.servers.registry import Registry, start_registry
from tests.servers.waiting import comes_true

READER = ("reader", "throw-away")
NODE_PAGE = Path(__file__).resolve().parents[2] / "docs/node.md"


@pytest.fixture
def mirror(registry: Registry, tmp_path: Path) -> Iterator[MirrorProcess]:
    with start_mirror(tmp_path / "mirror", registry) as mirror:
        yield mirror


def cached(mirror: MirrorProcess) -> dict[str, dict[str, Any]]:
    return {layer["digest"]: layer for layer in mirror.status()["cache"]["layers"]}


def image_of(registry: Registry, scope: str, tag: str | None, seed: int, **more: Any) -> PushedImage:
    layers = [layer_bytes(2_000_000, seed=seed), layer_bytes(1000, seed=seed + 1)]
    return push_image(registry, scope, tag, layers, **more)


@contextmanager
def terminal() -> Iterator[tuple[int, bytearray]]:
    """Yield a terminal to write to, and what was written there by the end of the block."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # nothing writes any more
            while part := os.read(ours, 65536):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, shown
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def test_prefetch_puts_an_images_layers_into_the_cache_and_shows_a_bar_on_a_terminal(
    registry: Registry, mirror: MirrorProcess, scope: str
) -> None:
    image = image_of(registry, scope, "v1", 100)
    with terminal() as (stderr, shown):
        said = mirror.installation.run("mirror", "prefetch", f"{scope}:v1", stderr=stderr).stdout
    assert said == "prefetched 2 layers (2.0 MB), failed 0\n"
    assert b"prefetch: 100%" in shown
    digests = {layer.digest for layer in image.layers}
    assert comes_true(lambda: digests <= cached(mirror).keys())
    assert not any(cached(mirror)[digest]["pinned"] for digest in digests)


def test_prefetch_fetches_the_wanted_platforms_and_pins_them(
    registry: Registry, mirror: MirrorProcess, scope: str
) -> None:
    images = [
        image_of(registry, scope, None, 110 + 10 * number, platform=platform)
        for number, platform in enumerate(("linux/amd64", "linux/arm64"))
    ]
    index = push_index(registry, scope, "v1", [image.descriptor for image in images])
    words = ("mirror", "prefetch", "--pin", "--platform", "linux/arm64", f"{scope}@{index.digest}")
    assert mirror.installation.last_line(*words).startswith("prefetched 2 layers")
    wanted, other = ({layer.digest for layer in image.layers} for image in reversed(images))
    assert comes_true(lambda: wanted <= cached(mirror).keys())
    assert not other & cached(mirror).keys()
    assert all(cached(mirror)[digest]["pinned"] for digest in wanted)

    nothing = mirror.installation.run(
        "mirror", "prefetch", "--platform", "linux/s390x", words[-1], check=False
    )
    assert (nothing.returncode, nothing.stdout) == (1, "prefetched 0 layers (0.0 MB), failed 1\n")
    assert "for linux/s390x: not found" in nothing.stderr
    registry.blob_file(images[0].digest).write_bytes(b"")
    broken = mirror.installation.run(*words, "--platform", "linux/amd64", check=False)
    assert (broken.returncode, broken.stdout) == (1, "prefetched 2 layers (2.0 MB), failed 1\n")


def test_a_stopped_prefetch_begins_no_further_request(tmp_path: Path) -> None:
    layers = [Descriptor(LAYER["docker"], f"sha256:{number:064x}", 1000) for number in range(AT_ONCE + 2)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST["docker"],
        "config": Descriptor(CONFIG["docker"], f"sha256:{99:064x}", 2).as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    with start_http_server() as mirror:
        mirror.on("/v0/mirror/status", replying(200, b'{"cache":{}}'))
        mirror.on(
            "/v2/a/manifests/v1",
            replying(200, json.dumps(manifest).encode(), {"Content-Type": MANIFEST["docker"]}),
        )
        mirror.on("/v2/a/manifests/v2", silent())
        mirror.on("/v2/a/blobs/*", silent())
        installation = Installation(
            tmp_path,
            "127.0.0.1:1",
            application=None,
            docker_registry={"read_timeout": 3},
            mirror={"host": mirror.host, "port": mirror.port},
        )

        def stopped(*images: str, after: int) -> tuple[str, list[str]]:
            mirror.requests.clear()
            with installation.process("mirror", "prefetch", *images) as prefetch:
                assert comes_true(lambda: len(mirror.requests) == after)
                prefetch.send_signal(signal.SIGTERM)
                assert prefetch.exit_status() == 1
            paths = [request.path for request in mirror.requests if request.path.startswith("/v2/a/")]
            return prefetch.log.read_text(), paths

        said, paths = stopped("a:v2", "a:v1", after=2)
        assert "image=a:v1 reason=interrupted" in said
        assert paths == ["/v2/a/manifests/v2"]
        said, paths = stopped("a:v1", after=2 + AT_ONCE)
        assert len(paths) == 1 + AT_ONCE
        assert said.endswith("prefetched 0 layers (0.0 MB), failed 5\n")


def test_prefetch_of_a_private_image_uses_the_stored_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    auth_file = tmp_path / "containers/auth.json"
    auth_file.parent.mkdir()
    with (
        start_registry(tmp_path / "registry", htpasswd=dict([READER])) as registry,
        start_mirror(tmp_path / "mirror", registry) as mirror,
    ):
        image = image_of(registry, "private", "v1", 130, auth=READER)
        refused = mirror.installation.run("mirror", "prefetch", "private:v1", check=False)
        assert refused.returncode == 1
        assert refused.stdout.endswith("prefetched 0 layers (0.0 MB), failed 1\n")
        assert f"run `docker login {registry.netloc}` or `podman login`" in refused.stderr

        entry = {"auth": base64.b64encode(":".join(READER).encode()).decode()}
        auth_file.write_text(json.dumps({"auths": {registry.netloc: entry}}))
        assert mirror.installation.last_line("mirror", "prefetch", "private:v1").startswith("prefetched 2")
        assert comes_true(lambda: {layer.digest for layer in image.layers} <= cached(mirror).keys())

        dockers_file = tmp_path / "docker/config.json"
        dockers_file.parent.mkdir()
        auth_file.rename(dockers_file)
        monkeypatch.setenv("DOCKER_CONFIG", str(dockers_file.parent))
        assert mirror.installation.last_line("mirror", "prefetch", "private:v1").startswith("prefetched 2")


def test_drop_removes_a_layer(registry: Registry, mirror: MirrorProcess, scope: str) -> None:
    image = image_of(registry, scope, "v1", 140)
    mirror.installation.run("mirror", "prefetch", f"{scope}:v1")
    digest = image.layers[0].digest
    assert comes_true(lambda: digest in cached(mirror))
    assert mirror.installation.last_line("mirror", "drop", digest) == "dropped 1"
    assert digest not in cached(mirror)
    again = mirror.installation.run("mirror", "drop", digest, check=False)
    assert (again.returncode, again.stdout) == (1, "dropped 0\n")
    assert f"{digest} is not in the cache" in again.stderr


def test_status_shows_where_bytes_came_from(registry: Registry, mirror: MirrorProcess, scope: str) -> None:
    image_of(registry, scope, "v1", 150)
    mirror.installation.run("mirror", "prefetch", f"{scope}:v1")
    assert comes_true(lambda: len(cached(mirror)) == 2)
    status = mirror.installation.json("mirror", "status")
    assert status["registry"] == registry.netloc
    assert status["origins"]["registry"] == 2_001_000
    assert status["cache"]["bytes"] == 2_001_000
    text = mirror.installation.run("mirror", "status").stdout
    assert "registry 1.9 MiB" in text
    assert "cache: 2 layers, 1.9 MiB, 0 pinned" in text
    [documented] = re.findall(r"^```json\n(.*?)^```$", NODE_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    example = json.loads(documented)
    assert example.keys() == status.keys()
    assert example["origins"].keys() == status["origins"].keys()
    assert example["cache"]["layers"][0].keys() == status["cache"]["layers"][0].keys()
    assert example["downloads"][0].keys() == {field.name for field in fields(DownloadStatus)}


@pytest.mark.parametrize("words", [("status",), ("drop", "sha256:" + "0" * 64), ("prefetch", "a:b")])
def test_a_mirror_that_is_not_running_is_reported(
    registry: Registry, tmp_path: Path, words: tuple[str, ...]
) -> None:
    installation = Installation(tmp_path, registry, application=None, mirror={"port": free_port()})
    failed = installation.run("mirror", *words, check=False)
    assert failed.returncode == 1
    assert "is the mirror running (docker_torrents mirror)?" in failed.stderr


def test_it_exits_with_0_on_sigterm_and_starts_again(
    registry: Registry, mirror: MirrorProcess, scope: str
) -> None:
    image = image_of(registry, scope, "v1", 160)
    mirror.installation.run("mirror", "prefetch", f"{scope}:v1")
    assert comes_true(lambda: len(cached(mirror)) == 2)
    mirror.process.send_signal(15)
    assert mirror.process.exit_status() == 0
    mirror.process.stop()
    mirror.process.start()
    assert cached(mirror).keys() == {layer.digest for layer in image.layers}


def test_it_keeps_serving_after_sighup(registry: Registry, mirror: MirrorProcess) -> None:
    mirror.process.send_signal(signal.SIGHUP)
    assert comes_true(lambda: "SIGHUP ignored" in mirror.process.log.read_text())
    assert mirror.get("/ping").text == "pong"
    mirror.process.send_signal(signal.SIGTERM)
    assert mirror.process.exit_status() == 0
    assert "another process uses it" not in mirror.process.log.read_text()


def test_a_second_mirror_with_the_same_cache_is_refused(mirror: MirrorProcess, registry: Registry) -> None:
    section = {**mirror.installation.sections["mirror"], "port": free_port(), "peer_port": free_port()}
    other = Installation(mirror.installation.folder / "other", registry, application=None, mirror=section)
    ended = other.run("mirror", check=False)
    assert ended.returncode == 1
    assert str(mirror.installation.sections["mirror"]["cache_dir"]) in ended.stderr


@pytest.mark.parametrize("taken", ["port", "peer_port"])
def test_a_port_in_use_is_reported(
    mirror: MirrorProcess, registry: Registry, tmp_path: Path, taken: str
) -> None:
    section = {
        "peer_host": "127.0.0.1",
        "cache_dir": str(tmp_path / "other-cache"),
        "port": free_port(),
        "peer_port": free_port(),
        taken: mirror.installation.sections["mirror"][taken],
    }
    other = Installation(tmp_path / "other", registry, application=None, mirror=section)
    ended = other.run("mirror", check=False)
    assert ended.returncode == 2
    assert str(section[taken]) in ended.stderr


def test_health_follows_the_registry(tmp_path: Path) -> None:
    with (
        start_registry(tmp_path / "registry") as registry,
        start_mirror(tmp_path / "mirror", registry) as mirror,
    ):

        def is_down() -> bool:
            answer = mirror.get("/healthz")
            found = answer.json()
            return (
                answer.status_code == 503
                and found["status"] == "down"
                and registry.netloc in found["parts"]["registry"]["reason"]
                and found["parts"]["downloads"]["reason"] == "0, 0 of them failed"
            )

        # Results are kept for some seconds, and on a busy machine a probe may be late.
        assert comes_true(lambda: mirror.get("/healthz").status_code == 200)
        registry.stop()
        assert comes_true(is_down), mirror.get("/healthz").text
        assert mirror.get("/ping").text == "pong"


def test_the_metrics_of_the_documentation_exist(
    mirror: MirrorProcess, registry: Registry, scope: str
) -> None:
    image_of(registry, scope, "v1", 170)
    mirror.installation.run("mirror", "prefetch", f"{scope}:v1")
    shown = mirror.get("/metrics").text
    named = set(re.findall(r"`(docker_torrents_mirror_[a-z_]+)", NODE_PAGE.read_text()))
    assert len(named) >= 7
    # No download has fallen back yet: the metric is declared, and has no values.
    assert {
        name for name in named if f"# TYPE {name.removesuffix('_total')}" not in shown.replace("_total ", " ")
    } == set()


class Answering:
    """A registry and a service whose answer about torrents tests set."""

    def __init__(self, server: HttpServer) -> None:
        self.netloc = server.netloc
        self.torrents: tuple[int, bytes, dict[str, str]] = (404, b"404 page not found", {})
        server.on("/v2/", lambda request, connection: connection.reply(200, b"{}"))
        server.on("/v0/torrents/*", self._torrents)

    def _torrents(self, request: Request, connection: Connection) -> None:
        connection.reply(*self.torrents)


@pytest.fixture
def answering() -> Iterator[Answering]:
    with start_http_server() as server:
        yield Answering(server)


@pytest.mark.parametrize(
    ("torrents", "status", "said"),
    [
        ((404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}', {}), 0, "the registry authorizes callers"),
        ((401, b"{}", {"WWW-Authenticate": 'Bearer realm="x"'}), 0, "the registry authorizes callers"),
        (
            (401, b"{}", {"WWW-Authenticate": 'OAuth realm="x"'}),
            0,
            "Blackbox authorizes callers, engines get",
        ),
        (
            (400, b'{"message":"the header X-Real-IP is required: the proxy in front has to set it"}', {}),
            1,
            "nginx in front must set it",
        ),
        ((404, b"404 page not found", {}), 1, "set mirror.torrents_url"),
        ((503, b"{}", {}), 1, "cannot reach the server that authorizes callers"),
    ],
)
def test_check_reports_whether_engines_get_torrents(
    answering: Answering, tmp_path: Path, torrents: Any, status: int, said: str
) -> None:
    answering.torrents = torrents
    section = {
        "port": free_port(),
        "peer_host": "127.0.0.1",
        "peer_port": free_port(),
        "cache_dir": str(tmp_path / "cache"),
        "keep_free": 0,
    }
    installation = Installation(tmp_path, answering.netloc, mirror=section)
    checked = installation.run("mirror", "check", check=False)
    assert checked.returncode == status, checked.stdout
    assert said in checked.stdout
    assert checked.stdout.endswith(f"checked 3, failed {status}\n")
    assert "cache will be created\n" in checked.stdout
    assert not (tmp_path / "cache").exists()


def test_check_of_a_nodes_configuration_checks_the_node(mirror: MirrorProcess) -> None:
    config = json.loads(mirror.installation.config.read_text())
    node = {name: config[name] for name in ("docker_registry", "mirror")}
    mirror.installation.config.write_text(json.dumps({**node, "application": {"log_format": "json"}}))
    said = mirror.installation.run("check", check=False).stdout
    assert f"runs at {mirror.netloc}" in said
    assert "database" not in said


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>"])
def test_another_program_at_the_mirrors_port_is_reported(body: bytes) -> None:
    with start_http_server() as server, HttpClient(60.0, 60.0) as http:
        server.on("/*", replying(200, body))
        with pytest.raises(BadAnswer, match="is this port another program's"):
            LocalMirror(Mirror(host=server.host, port=server.port), http).status()
