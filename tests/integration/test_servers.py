"""Every server that the tests use starts, works, and leaves no process behind."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import sqlalchemy as sa
import torf

from tests.servers import aria2
from tests.servers.cutting_proxy import start_cutting_proxy
from tests.servers.layers import layer_bytes, layer_tar, write_layer
from tests.servers.moto import Moto, start_moto
from tests.servers.nginx import serve_folder, start_nginx
from tests.servers.opentracker import start_opentracker
from tests.servers.pgbouncer import start_pgbouncer
from tests.servers.postgres import PostgresServer, start_postgres, start_standby
from tests.servers.process import listening
from tests.servers.push import INDEX, Bearer, mount_blob, push_blob, push_image, push_index
from tests.servers.registry import Registry, start_registry
from tests.servers.token_server import User, start_token_server
from tests.servers.waiting import comes_true

MIB = 1 << 20


@contextmanager
def _pgbouncer(folder: Path) -> Iterator[Any]:
    with start_postgres(folder / "postgres") as server, start_pgbouncer(folder / "pgbouncer", server) as pool:
        yield pool


STARTERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "registry": start_registry,
    "postgres": start_postgres,
    "pgbouncer": _pgbouncer,
    "moto": start_moto,
    "nginx": lambda folder: serve_folder(folder / "nginx", folder),
    "opentracker": start_opentracker,
}


@pytest.mark.parametrize("name", STARTERS)
def test_a_server_leaves_no_process_when_the_body_raises(name: str, tmp_path: Path) -> None:
    family: list[psutil.Process] = []

    def fail_inside() -> None:
        with STARTERS[name](tmp_path / name) as server:
            leader = psutil.Process(server.process.pid)
            family.extend([leader, *leader.children(recursive=True)])
            raise RuntimeError("the body")

    with pytest.raises(RuntimeError, match="the body"):
        fail_inside()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert family
    assert not alive


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_a_pushed_image_is_in_the_registry_byte_for_byte(media: Any, registry: Registry, scope: str) -> None:
    layers = [layer_tar({"etc/motd": b"hello\n"}), layer_bytes(300_000, seed=1)]
    image = push_image(registry, scope, "latest", layers, media=media)
    url = f"{registry.url}/v2/{scope}"
    accept = {"Accept": image.descriptor.media_type}
    answer = requests.get(f"{url}/manifests/latest", headers=accept, timeout=60)
    assert answer.content == image.manifest
    assert answer.headers["Docker-Content-Digest"] == image.digest
    for descriptor, layer in zip(image.layers, layers, strict=True):
        assert requests.get(f"{url}/blobs/{descriptor.digest}", timeout=60).content == layer
        assert registry.blob_file(descriptor.digest).read_bytes() == layer
    assert ("GET", f"/v2/{scope}/manifests/latest", 200) in registry.requests()


def test_the_registry_has_logged_every_answered_request(registry: Registry, scope: str) -> None:
    blob = push_blob(registry, scope, layer_bytes(300_000, seed=2))
    path = f"/v2/{scope}/blobs/{blob.digest}"
    before = len(registry.requests())
    for count in range(1, 51):
        requests.get(registry.url + path, timeout=60)
        assert registry.requests()[before:] == [("GET", path, 200)] * count


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_an_index_names_its_children_and_their_platforms(media: Any, registry: Registry, scope: str) -> None:
    children = [
        push_image(registry, scope, None, [layer_bytes(100, seed)], media=media, platform=platform)
        for seed, platform in enumerate(["linux/amd64", "linux/arm64/v8"])
    ]
    index = push_index(registry, scope, "multi", [child.descriptor for child in children], media=media)
    answer = requests.get(
        f"{registry.url}/v2/{scope}/manifests/multi", headers={"Accept": INDEX[media]}, timeout=60
    )
    assert answer.content == index.manifest
    assert [(entry["digest"], entry["platform"]) for entry in answer.json()["manifests"]] == [
        (children[0].digest, {"os": "linux", "architecture": "amd64"}),
        (children[1].digest, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
    ]


def test_a_layer_is_pushed_from_a_file_and_mounted(registry: Registry, scope: str, tmp_path: Path) -> None:
    large = write_layer(tmp_path / "layer", 5_000_000, seed=7)
    descriptor = push_blob(registry, scope, large)
    assert large.read_bytes() == layer_bytes(5_000_000, seed=7)
    assert descriptor.digest == f"sha256:{hashlib.sha256(large.read_bytes()).hexdigest()}"
    assert mount_blob(registry, f"{scope}-mounted", descriptor.digest, scope)
    assert not mount_blob(registry, f"{scope}-mounted", f"sha256:{'0' * 64}", scope)


def test_a_registry_keeps_its_port_and_blobs_after_a_crash(tmp_path: Path) -> None:
    with start_registry(tmp_path, htpasswd={"robot": "secret"}) as server:
        blob = push_blob(server, "library/x", b"some bytes", auth=("robot", "secret"))
        url = f"{server.url}/v2/library/x/blobs/{blob.digest}"
        server.kill()
        assert not listening(server.port)()
        server.start()
        assert requests.get(url, auth=("robot", "secret"), timeout=60).content == b"some bytes"
        assert requests.get(url, timeout=60).headers["WWW-Authenticate"] == 'Basic realm="tests"'


def test_a_registry_on_s3_redirects_readers_there(tmp_path: Path, moto: Moto, bucket: str) -> None:
    with start_registry(tmp_path, s3=moto.registry_storage(bucket)) as server:
        blob = push_blob(server, "library/x", b"some bytes")
        url = f"{server.url}/v2/library/x/blobs/{blob.digest}"
        redirect = requests.get(url, allow_redirects=False, timeout=60)
        assert redirect.status_code == 307
        assert redirect.headers["Location"].startswith(f"{moto.endpoint}/{bucket}/")
        assert requests.get(url, timeout=60).content == b"some bytes"
    with moto.client() as client:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    hex_digits = blob.digest.removeprefix("sha256:")
    assert f"docker/registry/v2/blobs/sha256/{hex_digits[:2]}/{hex_digits}/data" in keys


def test_a_registry_accepts_only_tokens_of_its_token_server(tmp_path: Path) -> None:
    users = {"writer": User("w", {"team/*": {"pull", "push"}}), "reader": User("r", {"team/*": {"pull"}})}
    with (
        start_token_server(tmp_path / "tokens", users) as tokens,
        start_registry(tmp_path / "registry", token=tokens.registry_auth()) as server,
    ):
        url = f"{server.url}/v2/team/app/tags/list"
        refused = requests.get(url, timeout=60)
        assert refused.status_code == 401
        assert f'Bearer realm="{tokens.realm}"' in refused.headers["WWW-Authenticate"]

        def ask(user: str, password: str) -> requests.Response:
            query = {"service": "tests' registry", "scope": "repository:team/app:pull,push"}
            return requests.get(tokens.realm, params=query, auth=(user, password), timeout=60)

        granted = ask("writer", "w").json()
        assert granted["expires_in"] == tokens.lifetime
        push_image(server, "team/app", "v1", [b"layer"], auth=Bearer(granted["token"]))
        reader = Bearer(ask("reader", "r").json()["token"])
        assert requests.get(url, auth=reader, timeout=60).json()["tags"] == ["v1"]
        with pytest.raises(requests.HTTPError, match="401"):
            push_blob(server, "team/app", b"not allowed", auth=reader)
        assert ask("writer", "wrong").status_code == 401
        assert len(tokens.requests) == 3
        # The registry allows 60 s for clocks that differ.
        access = [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
        assert requests.get(url, auth=Bearer(tokens.token("x", access)), timeout=60).status_code == 200
        late = Bearer(tokens.token("x", access, lifetime=-90))
        assert requests.get(url, auth=late, timeout=60).status_code == 401


def test_each_database_is_empty_and_a_new_one(postgres: PostgresServer, postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    assert sa.inspect(engine).get_table_names() == []
    assert engine.url.database != postgres.root_url.database


def test_postgres_keeps_its_data_over_stop_and_crash_and_a_standby_follows(tmp_path: Path) -> None:
    with start_postgres(tmp_path / "primary") as server:
        engine = sa.create_engine(server.create_database("kept"), poolclass=sa.NullPool)
        server.execute("CREATE TABLE numbers (n int)", "kept")
        server.execute("INSERT INTO numbers VALUES (1)", "kept")
        server.stop()
        with pytest.raises(sa.exc.OperationalError):
            engine.connect()
        server.start()
        server.execute("INSERT INTO numbers VALUES (2)", "kept")
        server.crash()
        server.start()
        with start_standby(server, tmp_path / "standby") as standby:
            server.execute("INSERT INTO numbers VALUES (3)", "kept")
            copy = sa.create_engine(standby.url("kept"), poolclass=sa.NullPool)

            def numbers() -> list[int]:
                with copy.connect() as connection:
                    return list(connection.scalars(sa.text("SELECT n FROM numbers ORDER BY n")))

            assert comes_true(lambda: numbers() == [1, 2, 3])
            with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
                standby.execute("INSERT INTO numbers VALUES (4)", "kept")


def test_a_read_only_postgres_refuses_writes(tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path, read_only=True) as server,
        pytest.raises(sa.exc.InternalError, match="read-only transaction"),
    ):
        server.execute("CREATE TABLE numbers (n int)")


def test_pgbouncer_hands_connections_from_client_to_client(tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path / "postgres") as server,
        start_pgbouncer(tmp_path / "pgbouncer", server, pool_size=1) as pool,
    ):
        engine = sa.create_engine(pool.url("postgres"), poolclass=sa.NullPool)
        with engine.connect() as one, engine.connect() as other:
            pids = set()
            for client in (one, other, one):
                pids.add(client.scalar(sa.text("SELECT pg_backend_pid()")))
                client.commit()
        assert len(pids) == 1
        assert engine.url.port != server.port


def test_a_server_behind_the_cutting_proxy_notices_at_once_that_its_reader_left(tmp_path: Path) -> None:
    failed = threading.Event()

    def send(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            connection.sendall(bytes(64 * MIB))
        failed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=send, args=[listener])
        server.start()
        with start_cutting_proxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
            proxy.throttle(MIB // 2)
            with socket.create_connection((proxy.host, proxy.port)) as reader:
                # Then less than a block is in the proxy's buffer, which has no room left.
                assert reader.recv(1_000_000, socket.MSG_WAITALL)
        assert failed.wait(60)
        server.join()


def test_nginx_keeps_its_rate_and_logs_bytes_sent(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    content = write_layer(files / "layer", 1_000_000).read_bytes()
    with serve_folder(tmp_path / "nginx", files, limit_rate=500_000) as nginx:
        began = time.monotonic()
        assert requests.get(f"{nginx.url}/layer", timeout=60).content == content
        assert time.monotonic() - began > 0.7  # half of it at once, the other half in a second
        part = requests.get(f"{nginx.url}/layer", headers={"Range": "bytes=10-19"}, timeout=60)
        assert part.content == content[10:20]
        assert comes_true(lambda: len(nginx.requests()) == 2)
        assert [(served.status, served.sent) for served in nginx.requests()] == [(200, 1_000_000), (206, 10)]


def test_nginx_stands_in_front_of_another_server(tmp_path: Path, registry: Registry) -> None:
    def http(port: int) -> str:
        return f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {registry.url}; }} }}"

    with start_nginx(tmp_path, http) as nginx:
        assert requests.get(f"{nginx.url}/v2/", timeout=60).json() == {}


def _torrent(file: Path, path: Path, **outside: Any) -> str:
    """Write the torrent of a file to `path`, and return its info-hash."""
    torrent = torf.Torrent(file, private=True, **outside)
    torrent.generate(threads=1)
    torrent.write(path)
    return str(torrent.infohash)


def test_aria2_downloads_from_a_web_seed(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    layer = write_layer(files / "layer", 1_000_000)
    with serve_folder(tmp_path / "nginx", files) as nginx:
        _torrent(layer, tmp_path / "a.torrent", webseeds=[f"{nginx.url}/layer"])
        got = aria2.download(tmp_path / "a.torrent", tmp_path / "got")
    assert got.read_bytes() == layer.read_bytes()


def test_aria2_downloads_from_a_seeder_named_by_the_tracker(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    layer = write_layer(files / "layer", 1_000_000)
    with start_opentracker(tmp_path / "tracker") as tracker:
        torrent = tmp_path / "a.torrent"
        info_hash = _torrent(layer, torrent, trackers=[tracker.announce_url])
        assert not tracker.serves(info_hash)
        tracker.allow(info_hash)
        with aria2.seeding(torrent, files, log=tmp_path / "seeder.log"):
            assert comes_true(lambda: tracker.peers(info_hash) == (1, 0))
            got = aria2.download(torrent, tmp_path / "got")
    assert got.read_bytes() == layer.read_bytes()
