"""Layers in MDS: found through the driver's tables, whose keys may be hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.blobs.source import BlobSource
from core.errors import BadAnswer, NotFound, Refused, SizeMismatch, Unavailable
from core.layer import Layer
from sql.mds_files import find_mds_file
from sql.tables import build_tables
from tests.layer_places import MdsPlace, mds_place
from tests.servers.bad_http import html, replying, serving
from tests.servers.layers import layer_bytes

CONTENT = layer_bytes(200_000, seed=4)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[MdsPlace]:
    with mds_place(tmp_path) as ready:
        yield ready


def read(source: BlobSource, layer: Layer, offset: int = 0, length: int | None = None) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    with source.open(layer, offset, length) as reader:
        while count := reader.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def test_a_file_is_requested_in_the_way_of_the_driver(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    key = json.loads(place.row(layer))["key"]

    assert read(place.source, layer, 1000, 500) == CONTENT[1000:1500]

    request = place.mds.server.requests[-1]
    assert (request.method, request.path) == ("GET", f"/get-docker-registry/{key}/")
    assert request.headers["Range"] == "bytes=1000-1499"


def test_a_redirect_to_the_bytes_is_followed(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    place.change(layer, mdsfileinfo=place.mds.put("elsewhere", CONTENT, redirect=True))

    assert read(place.source, layer) == CONTENT
    assert read(place.source, layer, 199_000) == CONTENT[199_000:]


def test_a_file_marked_deleted_is_a_missing_layer(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    place.change(layer, deleted=True)

    with pytest.raises(NotFound, match="tables"):
        place.source.size(layer)
    with pytest.raises(NotFound, match="tables"):
        place.source.open(layer, 0)


def test_a_file_deleted_without_a_record_is_a_missing_layer(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    place.mds.delete(place.row(layer))

    assert place.source.size(layer) == len(CONTENT)
    with pytest.raises(NotFound, match="get-docker-registry"):
        place.source.open(layer, 0)


def test_a_file_uploaded_again_is_found_under_its_new_key(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    assert read(place.source, layer) == CONTENT
    place.mds.delete(place.row(layer))
    place.change(layer, mdsfileinfo=place.mds.put("anew", CONTENT))

    assert read(place.source, layer) == CONTENT


@pytest.mark.parametrize("info", ["", "not JSON", "{}", '{"key": "../../admin", "size": 10}'])
def test_a_row_without_a_valid_key_is_refused_without_a_request(place: MdsPlace, info: str) -> None:
    layer = place.put(CONTENT)
    place.change(layer, mdsfileinfo=info)

    with pytest.raises(Refused, match="mdsfileinfo"):
        place.source.open(layer, 0)
    assert not place.mds.server.requests


def test_special_characters_of_a_key_are_escaped_in_the_path(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    key = "30001/a b?c#d%2e%2e;e"
    place.change(layer, mdsfileinfo=json.dumps({"key": key, "size": len(CONTENT)}))
    place.mds.server.on("/get-docker-registry/30001/a%20b%3Fc%23d%252e%252e;e/", serving(CONTENT))

    assert read(place.source, layer) == CONTENT


def test_a_file_of_another_size_than_in_the_tables_is_refused(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    place.replace(layer, CONTENT[:-1])

    with pytest.raises(SizeMismatch):
        place.source.open(layer, 0)
    with pytest.raises(SizeMismatch):
        place.source.open(layer, 1000, 1000)


@pytest.mark.parametrize(
    "answer", [replying(500), replying(507), replying(410), html(200), html(404), html(403)]
)
def test_a_failing_server_is_retried_later(place: MdsPlace, answer: object) -> None:
    layer = place.put(CONTENT)
    place.mds.server.on(place.mds.path(json.loads(place.row(layer))["key"]), answer)  # type: ignore[arg-type]

    with pytest.raises(Unavailable):
        place.source.open(layer, 0)


def test_a_server_that_returns_another_range_is_refused(place: MdsPlace) -> None:
    layer = place.put(CONTENT)
    headers = {"Content-Range": f"bytes 0-999/{len(CONTENT)}"}
    place.mds.server.on(
        place.mds.path(json.loads(place.row(layer))["key"]), replying(206, CONTENT[:1000], headers)
    )

    with pytest.raises(BadAnswer):
        place.source.open(layer, 1000, 1000)


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
