"""Layers in MDS: found through the driver's tables, whose keys may be hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.blobs.source import BlobSource
from core.errors import BadAnswer, NotFound, Refused, SizeMismatch, TooManyRequests, Unavailable
from core.layer import Layer
from sql.mds_files import find_mds_file
from sql.tables import build_tables
from tests.layer_backends import MdsBackend, mds_backend
from tests.servers.bad_http import html, replying, serving
from tests.servers.layers import layer_bytes

CONTENT = layer_bytes(200_000, seed=4)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[MdsBackend]:
    with mds_backend(tmp_path) as ready:
        yield ready


def read(source: BlobSource, layer: Layer, offset: int = 0, length: int | None = None) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    with source.open(layer, offset, length) as reader:
        while count := reader.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def test_a_file_is_requested_in_the_way_of_the_driver(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    key = json.loads(backend.row(layer))["key"]

    assert read(backend.source, layer, 1000, 500) == CONTENT[1000:1500]

    request = backend.mds.server.requests[-1]
    assert (request.method, request.path) == ("GET", f"/get-docker-registry/{key}/")
    assert request.headers["Range"] == "bytes=1000-1499"


def test_a_redirect_to_the_bytes_is_followed(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    backend.change(layer, mdsfileinfo=backend.mds.put("elsewhere", CONTENT, redirect=True))

    assert read(backend.source, layer) == CONTENT
    assert read(backend.source, layer, 199_000) == CONTENT[199_000:]


def test_a_file_marked_deleted_is_a_missing_layer(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    backend.change(layer, deleted=True)

    with pytest.raises(NotFound, match="tables"):
        backend.source.size(layer)
    with pytest.raises(NotFound, match="tables"):
        backend.source.open(layer, 0)


def test_a_file_deleted_without_a_record_is_a_missing_layer(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    backend.mds.delete(backend.row(layer))

    assert backend.source.size(layer) == len(CONTENT)
    with pytest.raises(NotFound, match="get-docker-registry"):
        backend.source.open(layer, 0)


def test_a_file_uploaded_again_is_found_under_its_new_key(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    assert read(backend.source, layer) == CONTENT
    backend.mds.delete(backend.row(layer))
    backend.change(layer, mdsfileinfo=backend.mds.put("anew", CONTENT))

    assert read(backend.source, layer) == CONTENT


@pytest.mark.parametrize("info", ["", "not JSON", "{}", '{"key": "../../admin", "size": 10}'])
def test_a_row_without_a_valid_key_is_refused_without_a_request(backend: MdsBackend, info: str) -> None:
    layer = backend.put(CONTENT)
    backend.change(layer, mdsfileinfo=info)

    with pytest.raises(Refused, match="mdsfileinfo"):
        backend.source.open(layer, 0)
    assert not backend.mds.server.requests


def test_special_characters_of_a_key_are_escaped_in_the_path(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    key = "30001/a b?c#d%2e%2e;e"
    backend.change(layer, mdsfileinfo=json.dumps({"key": key, "size": len(CONTENT)}))
    backend.mds.server.on("/get-docker-registry/30001/a%20b%3Fc%23d%252e%252e;e/", serving(CONTENT))

    assert read(backend.source, layer) == CONTENT


def test_a_file_of_another_size_than_in_the_tables_is_refused(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    backend.replace(layer, CONTENT[:-1])

    with pytest.raises(SizeMismatch):
        backend.source.open(layer, 0)
    with pytest.raises(SizeMismatch):
        backend.source.open(layer, 1000, 1000)


@pytest.mark.parametrize(
    "answer", [replying(500), replying(507), replying(410), html(200), html(404), html(403)]
)
def test_a_failing_server_is_retried_later(backend: MdsBackend, answer: object) -> None:
    layer = backend.put(CONTENT)
    backend.mds.server.on(backend.mds.path(json.loads(backend.row(layer))["key"]), answer)  # type: ignore[arg-type]

    with pytest.raises(Unavailable):
        backend.source.open(layer, 0)


def test_a_server_that_limits_requests_states_for_how_long(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    key = json.loads(backend.row(layer))["key"]
    backend.mds.server.on(backend.mds.path(key), replying(429, headers={"Retry-After": "30"}))

    with pytest.raises(TooManyRequests) as caught:
        backend.source.open(layer, 0)
    assert caught.value.retry_after == 30


def test_a_server_that_returns_another_range_is_refused(backend: MdsBackend) -> None:
    layer = backend.put(CONTENT)
    headers = {"Content-Range": f"bytes 0-999/{len(CONTENT)}"}
    backend.mds.server.on(
        backend.mds.path(json.loads(backend.row(layer))["key"]), replying(206, CONTENT[:1000], headers)
    )

    with pytest.raises(BadAnswer):
        backend.source.open(layer, 1000, 1000)


def test_the_tables_are_read_alike_on_every_engine(database_url: str) -> None:
    tables = build_tables()
    engine = sa.create_engine(database_url)
    try:
        tables.mfs.metadata.create_all(engine)
        with engine.begin() as connection:
            files = [
                ("/here", "1"),
                ("/unmarked", "2"),
                ("/deleted", "3"),
                ("/no info", "4"),
                ("/no key", None),
            ]
            for path, key in files:
                connection.execute(tables.mfs.insert().values(path=path, key=key))
            rows = [("1", "one", False), ("2", "two", None), ("3", "three", True), ("4", None, False)]
            for key, info, deleted in rows:
                values = {"key": key, "mdsfileinfo": info, "deleted": deleted}
                connection.execute(tables.mds.insert().values(values))
            found = {path: find_mds_file(connection, tables, path) for path, _ in [*files, ("/unknown", "")]}
            assert {path: info for path, info in found.items() if info} == {
                "/here": "one",
                "/unmarked": "two",
            }
    finally:
        engine.dispose()
