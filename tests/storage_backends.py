"""Storages of each kind, filled file by file, with the source that reads their blobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from core.blobs.directory import DirectoryBlobs
from core.blobs.mds import MdsBlobs
from core.blobs.s3 import S3Blobs
from core.blobs.source import BlobStorage
from core.s3 import Bucket, s3_client
from sql.mds_files import find_mds_file, list_files
from sql.tables import Tables, build_tables
from sql.transaction import reading
from tests.layer_backends import CONNECT_TIMEOUT, READ_TIMEOUT, TEMPLATE, layer_of, making_sources
from tests.servers.cutting_proxy import CuttingProxy, start_cutting_proxy
from tests.servers.mds import Mds, start_mds
from tests.servers.moto import Moto

REPOSITORIES = "docker/registry/v2/repositories"


class StorageBackend(Protocol):
    """A storage to put files into."""

    storage: BlobStorage

    def put(self, path: str, content: bytes) -> None:
        """Store a file; `path` is from the storage's root, without a leading slash."""

    def remove(self, path: str) -> None:
        """Remove a file."""


def put_blob(backend: StorageBackend, content: bytes, *scopes: str) -> str:
    """Store a blob as a registry does, with links from these repositories. Return its digest."""
    digest = layer_of(content).digest
    backend.put(blob_path_of(digest.hex), content)
    for scope in scopes:
        backend.put(f"{REPOSITORIES}/{scope}/_layers/sha256/{digest.hex}/link", str(digest).encode())
    return str(digest)


def blob_path_of(hex_digits: str) -> str:
    """Return the path of a blob in a registry's storage."""
    return TEMPLATE.format(short_digest=hex_digits[:2], full_digest=hex_digits).lstrip("/")


class DirectoryStorageBackend:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = DirectoryBlobs(root, TEMPLATE)

    def put(self, path: str, content: bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def remove(self, path: str) -> None:
        (self.root / path).unlink()


@dataclass
class S3StorageBackend:
    """A bucket of moto's behind a proxy, below a prefix that ends within a name."""

    client: Any
    bucket: str
    proxy: CuttingProxy
    storage: S3Blobs
    prefix: str = "registries/one"

    def put(self, path: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{path}", Body=content)

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{path}")


class MdsStorageBackend:
    """The tables of the MDS driver, and a stand-in for MDS. Pages are of three files."""

    def __init__(self, engine: sa.Engine, mds: Mds, storage: MdsBlobs, tables: Tables) -> None:
        self.engine = engine
        self.mds = mds
        self.tables = tables
        self.storage = storage

    def put(self, path: str, content: bytes) -> None:
        row = {
            "path": f"/{path}",
            "parent": f"/{path.rpartition('/')[0]}",
            "dir": False,
            "size": len(content),
        }
        info = self.mds.put(path.replace("/", "-"), content)
        with self.engine.begin() as connection:
            connection.execute(self.tables.mfs.insert().values(row | {"key": f"key of {path}"}))
            named = {"key": f"key of {path}", "mdsfileinfo": info, "deleted": False}
            connection.execute(self.tables.mds.insert().values(named))

    def remove(self, path: str) -> None:
        mfs, mds = self.tables.mfs, self.tables.mds
        with self.engine.begin() as connection:
            connection.execute(mfs.delete().where(mfs.c.path == f"/{path}"))
            connection.execute(mds.update().where(mds.c.key == f"key of {path}").values(deleted=True))

    def put_folder(self, path: str) -> None:
        """Record a folder, as the driver does for each parent of a file."""
        row = {"path": f"/{path}", "parent": f"/{path.rpartition('/')[0]}", "dir": True, "size": 0}
        with self.engine.begin() as connection:
            connection.execute(self.tables.mfs.insert().values(row))


@contextmanager
def s3_storage_backend(moto: Moto, bucket: str) -> Iterator[S3StorageBackend]:
    with making_sources() as sources, start_cutting_proxy(moto.endpoint) as proxy, moto.client() as filling:
        client = s3_client(proxy.url, "us-east-1", "tests", "not a secret", CONNECT_TIMEOUT, READ_TIMEOUT)
        sources.stack.callback(client.close)
        read = Bucket(client, bucket)
        prefix = S3StorageBackend.prefix
        yield S3StorageBackend(
            filling,
            bucket,
            proxy,
            S3Blobs(read, f"/{prefix}", TEMPLATE),
        )


@contextmanager
def mds_storage_backend(engine: sa.Engine, tables: Tables | None = None) -> Iterator[MdsStorageBackend]:
    """Create a storage with tables in the database of `engine`."""
    tables = tables or build_tables()
    tables.mfs.metadata.create_all(engine)

    def find_file(path: str) -> str | None:
        with reading(engine) as connection:
            return find_mds_file(connection, tables, path)

    def read_page(folder: str, after: str | None) -> tuple[list[tuple[str, int | None]], str | None]:
        with reading(engine) as connection:
            return list_files(connection, tables, folder=folder, after=after, limit=3)

    with making_sources() as sources, start_mds() as mds:
        storage = MdsBlobs(sources.http, mds.url_template, mds.namespace, TEMPLATE, find_file, read_page)
        yield MdsStorageBackend(engine, mds, storage, tables)
