"""The conformance suite of the metainfo stores: directory and S3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from core.digest import Digest
from core.errors import MetainfoMissing
from core.s3 import Bucket, s3_client
from core.torrents.store import DirectoryStore, MetainfoStore, S3Store
from tests.servers.moto import Moto

MIB = 1024 * 1024
DIGEST = Digest(hashlib.sha256(b"a layer").hexdigest())
OTHER = Digest(hashlib.sha256(b"another layer").hexdigest())
# The first two digits are those of DIGEST.
NEIGHBOUR = Digest(DIGEST.short + OTHER.hex[2:])


@pytest.fixture(params=["directory", "s3"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], MetainfoStore]]:
    """A function that creates independent stores on the same place."""
    if request.param == "directory":
        yield lambda: DirectoryStore(tmp_path / "not created yet" / "metainfo")
        return
    moto: Moto = request.getfixturevalue("moto")
    bucket: str = request.getfixturevalue("bucket")
    with ExitStack() as clients:

        def make() -> MetainfoStore:
            client = s3_client(moto.endpoint, moto.region, moto.access_key, moto.secret_key, 2.0, 20.0)
            clients.enter_context(closing(client))
            return S3Store(Bucket(client, bucket), "torrents/")

        yield make


@pytest.fixture
def store(make_store: Callable[[], MetainfoStore]) -> MetainfoStore:
    return make_store()


@pytest.mark.parametrize("data", [b"", b"d4:infodee", bytes(range(256)) * 10, os.urandom(10 * MIB)], ids=len)
def test_metainfo_is_returned_byte_for_byte(store: MetainfoStore, data: bytes) -> None:
    store.put(DIGEST, data)
    assert store.get(DIGEST) == data


def test_layers_are_kept_apart(store: MetainfoStore) -> None:
    for digest in (DIGEST, NEIGHBOUR, OTHER):
        store.put(digest, str(digest).encode())
    for digest in (DIGEST, NEIGHBOUR, OTHER):
        assert store.get(digest) == str(digest).encode()


def test_a_second_put_replaces_the_first(store: MetainfoStore) -> None:
    store.put(DIGEST, b"the first, and longer one")
    store.put(DIGEST, b"the second")
    assert store.get(DIGEST) == b"the second"


def test_metainfo_never_stored_is_missing(store: MetainfoStore) -> None:
    with pytest.raises(MetainfoMissing, match=DIGEST.hex):
        store.get(DIGEST)
    store.put(NEIGHBOUR, b"not this one")
    with pytest.raises(MetainfoMissing):
        store.get(DIGEST)


def test_deleted_metainfo_is_missing_and_the_rest_exists(store: MetainfoStore) -> None:
    store.put(DIGEST, b"to be deleted")
    store.put(NEIGHBOUR, b"to stay")
    store.delete(DIGEST)
    with pytest.raises(MetainfoMissing):
        store.get(DIGEST)
    assert store.get(NEIGHBOUR) == b"to stay"
    store.put(DIGEST, b"back again")
    assert store.get(DIGEST) == b"back again"


def test_deleting_something_absent_is_not_an_error(store: MetainfoStore) -> None:
    store.delete(DIGEST)
    store.put(DIGEST, b"once")
    store.delete(DIGEST)
    store.delete(DIGEST)


def test_another_store_on_the_same_place_sees_it(make_store: Callable[[], MetainfoStore]) -> None:
    make_store().put(DIGEST, b"from the brewer")
    assert make_store().get(DIGEST) == b"from the brewer"


def test_a_check_names_the_place_and_changes_nothing(store: MetainfoStore) -> None:
    store.put(DIGEST, b"unchanged")
    assert "takes metainfo" in store.check()
    assert "\n" not in store.check()
    assert store.get(DIGEST) == b"unchanged"


def test_threads_may_share_it(store: MetainfoStore) -> None:
    digests = [Digest(f"{number:064x}") for number in range(40)]

    def put_and_get(digest: Digest) -> bytes:
        store.put(digest, digest.hex.encode())
        return store.get(digest)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(put_and_get, digests)) == [digest.hex.encode() for digest in digests]
