"""Backends that layers are read from, each with a real server behind a proxy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from core.blobs.directory import DirectoryBlobs
from core.blobs.mds import MdsBlobs
from core.blobs.registry import RegistryBlobs
from core.blobs.s3 import S3Blobs
from core.blobs.source import BlobSource
from core.config.config import DockerRegistry
from core.digest import Digest
from core.http.client import HttpClient
from core.layer import Layer
from core.registry.client import RegistryClient
from core.s3 import Bucket, s3_client
from sql.mds_files import find_mds_file
from sql.tables import Tables, build_tables
from tests.memory_source import MemorySource
from tests.servers.bad_http import replying, serving
from tests.servers.cutting_proxy import CuttingProxy, start_cutting_proxy
from tests.servers.http_server import start_http_server
from tests.servers.mds import Mds, start_mds
from tests.servers.moto import Moto
from tests.servers.process import free_port
from tests.servers.push import push_blob
from tests.servers.registry import Registry, start_registry

TEMPLATE = "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"
CONNECT_TIMEOUT = 60.0
READ_TIMEOUT = 60.0
"""Ample, as the machine may be busy; tests of silence pass less to their backend."""


class Backend(Protocol):
    """A storage of layers, and sources that read from it."""

    source: BlobSource
    proxy: CuttingProxy | None
    """The proxy between the source and its server; None without a connection."""

    def put(self, content: bytes) -> Layer:
        """Store a layer."""

    def replace(self, layer: Layer, content: bytes) -> None:
        """Replace the layer's bytes."""

    def remove(self, layer: Layer) -> None:
        """Remove the layer."""

    def refused(self) -> BlobSource:
        """Return a source of the same kind that the server refuses. Afterwards nothing else works."""

    def unreachable(self) -> BlobSource:
        """Return a source of the same kind without a server."""


def layer_of(content: bytes) -> Layer:
    """Return the layer of these bytes, without size and scopes."""
    return Layer(Digest(hashlib.sha256(content).hexdigest()))


def _no_files(folder: str, after: str | None) -> tuple[list[tuple[str, int | None]], str | None]:
    return [], None


def s3_key(layer: Layer) -> str:
    """Return the key of a layer in the bucket of a registry with `rootdirectory: /`."""
    return TEMPLATE.format(short_digest=layer.digest.short, full_digest=layer.digest.hex)[1:]


@dataclass
class MemoryBackend:
    """The fake of unit tests, in the same suite as the real ones."""

    source: MemorySource = field(default_factory=lambda: MemorySource({}))
    proxy: CuttingProxy | None = None

    def put(self, content: bytes) -> Layer:
        layer = layer_of(content)
        self.replace(layer, content)
        return layer

    def replace(self, layer: Layer, content: bytes) -> None:
        self.source.layers[layer.digest] = content

    def remove(self, layer: Layer) -> None:
        del self.source.layers[layer.digest]


@dataclass(kw_only=True)
class DirectoryBackend:
    """A real registry's storage tree. `scope` is a repository to push to."""

    registry: Registry
    scope: str
    proxy: CuttingProxy | None = None

    def __post_init__(self) -> None:
        self.source: BlobSource = DirectoryBlobs(self.registry.storage, TEMPLATE)

    def put(self, content: bytes) -> Layer:
        layer = replace(layer_of(content), scopes=(self.scope,))
        # Another test may have left other bytes in its place.
        self.remove(layer)
        push_blob(self.registry, self.scope, content)
        return layer

    def replace(self, layer: Layer, content: bytes) -> None:
        self.registry.blob_file(str(layer.digest)).write_bytes(content)

    def remove(self, layer: Layer) -> None:
        self.registry.blob_file(str(layer.digest)).unlink(missing_ok=True)


@dataclass(kw_only=True)
class RegistryBackend(DirectoryBackend):
    """A real registry, whose storage is a directory. `folder` is for another one, with a password."""

    proxy: CuttingProxy
    sources: Sources
    folder: Path

    def __post_init__(self) -> None:
        self.source = self.sources.registry(self.proxy.netloc)

    def refused(self) -> BlobSource:
        guarded = start_registry(self.folder, htpasswd={"brewer": "right"})
        return self.sources.registry(self.sources.stack.enter_context(guarded).netloc, "brewer", "wrong")

    def unreachable(self) -> BlobSource:
        return self.sources.registry(f"127.0.0.1:{free_port()}")


@dataclass(kw_only=True)
class RegistryOnS3Backend(RegistryBackend):
    """A real registry that stores in S3 and redirects readers there, with the proxy in front of S3."""

    moto: Moto
    bucket: str

    def __post_init__(self) -> None:
        self.source = self.sources.registry(self.registry.netloc)

    def replace(self, layer: Layer, content: bytes) -> None:
        with self.moto.client() as client:
            client.put_object(Bucket=self.bucket, Key=s3_key(layer), Body=content)

    def remove(self, layer: Layer) -> None:
        with self.moto.client() as client:
            client.delete_object(Bucket=self.bucket, Key=s3_key(layer))


@dataclass
class S3Backend:
    """A bucket of moto's, filled as a registry fills it."""

    moto: Moto
    bucket: str
    proxy: CuttingProxy
    sources: Sources

    def __post_init__(self) -> None:
        self.source = self.sources.s3(self.proxy.url, self.bucket)

    def put(self, content: bytes) -> Layer:
        layer = layer_of(content)
        self.replace(layer, content)
        return layer

    def replace(self, layer: Layer, content: bytes) -> None:
        with self.moto.client() as client:
            client.put_object(Bucket=self.bucket, Key=s3_key(layer), Body=content)

    def remove(self, layer: Layer) -> None:
        with self.moto.client() as client:
            client.delete_object(Bucket=self.bucket, Key=s3_key(layer))

    def refused(self) -> BlobSource:
        # moto takes any credentials.
        said = b"<Error><Code>InvalidAccessKeyId</Code><Message>No such key id</Message></Error>"
        server = self.sources.stack.enter_context(start_http_server())
        server.on("/*", replying(403, said, {"Content-Type": "application/xml"}))
        return self.sources.s3(server.url, self.bucket)

    def unreachable(self) -> BlobSource:
        return self.sources.s3(f"http://127.0.0.1:{free_port()}", self.bucket)


@dataclass
class MdsBackend:
    """A stand-in for MDS, with real tables of its files."""

    mds: Mds
    proxy: CuttingProxy
    engine: sa.Engine
    sources: Sources
    tables: Tables = field(default_factory=build_tables)

    def __post_init__(self) -> None:
        self.tables.mfs.metadata.create_all(self.engine)
        self.source = self._source(self.proxy.url)

    def put(self, content: bytes) -> Layer:
        layer = layer_of(content)
        path, mds_key = self._path(layer), f"our name for {layer.digest.hex}"
        with self.engine.begin() as connection:
            file = {"path": path, "parent": path.rpartition("/")[0], "dir": False, "size": len(content)}
            connection.execute(self.tables.mfs.insert().values(file | {"key": mds_key}))
            info = self.mds.put(layer.digest.hex, content)
            row = {"key": mds_key, "mdsfileinfo": info, "deleted": False}
            connection.execute(self.tables.mds.insert().values(row))
        return layer

    def replace(self, layer: Layer, content: bytes) -> None:
        key = json.loads(self.row(layer))["key"]
        self.mds.server.on(self.mds.path(key), serving(content))

    def remove(self, layer: Layer) -> None:
        self.mds.delete(self.row(layer))
        self.change(layer, deleted=True)

    def refused(self) -> BlobSource:
        self.mds.refusing = True
        return self.source

    def unreachable(self) -> BlobSource:
        return self._source(f"http://127.0.0.1:{free_port()}")

    def row(self, layer: Layer) -> str:
        """Return the layer's `mdsfileinfo`."""
        info = self._find_file(self._path(layer))
        assert info is not None
        return info

    def change(self, layer: Layer, **values: Any) -> None:
        """Change columns of the layer's row in the table `mds`."""
        mfs, mds = self.tables.mfs, self.tables.mds
        key = sa.select(mfs.c.key).where(mfs.c.path == self._path(layer)).scalar_subquery()
        with self.engine.begin() as connection:
            connection.execute(mds.update().where(mds.c.key == key).values(values))

    def _source(self, url: str) -> MdsBlobs:
        template = f"{url}/{{payload}}/"
        return MdsBlobs(self.sources.http, template, self.mds.namespace, TEMPLATE, self._find_file, _no_files)

    def _find_file(self, path: str) -> str | None:
        with self.engine.connect() as connection:
            return find_mds_file(connection, self.tables, path)

    def _path(self, layer: Layer) -> str:
        return TEMPLATE.format(short_digest=layer.digest.short, full_digest=layer.digest.hex)


@dataclass
class Sources:
    """Creates sources, and closes them with `stack`."""

    stack: ExitStack
    http: HttpClient
    read_timeout: float

    def registry(self, host: str, user: str | None = None, password: str | None = None) -> RegistryBlobs:
        """Return a source that reads from the registry at `host`."""
        settings = DockerRegistry(host=host, proto="http")
        return RegistryBlobs(RegistryClient(settings, self.http, user, password))

    def s3(self, url: str, bucket: str) -> S3Blobs:
        """Return a source that reads a bucket of the S3 at `url`."""
        client = s3_client(url, "us-east-1", "tests", "not a secret", CONNECT_TIMEOUT, self.read_timeout)
        self.stack.callback(client.close)
        return S3Blobs(Bucket(client, bucket), "/", TEMPLATE)


@contextmanager
def making_sources(read_timeout: float = READ_TIMEOUT) -> Iterator[Sources]:
    """Yield sources that exist during the block."""
    with ExitStack() as stack:
        http = stack.enter_context(HttpClient(CONNECT_TIMEOUT, read_timeout))
        yield Sources(stack, http, read_timeout)


@contextmanager
def registry_backend(
    registry: Registry, scope: str, folder: Path, read_timeout: float = READ_TIMEOUT
) -> Iterator[RegistryBackend]:
    with making_sources(read_timeout) as sources, start_cutting_proxy(registry.url) as proxy:
        yield RegistryBackend(registry=registry, scope=scope, proxy=proxy, sources=sources, folder=folder)


@contextmanager
def registry_on_s3_backend(
    moto: Moto, bucket: str, scope: str, folder: Path, read_timeout: float = READ_TIMEOUT
) -> Iterator[RegistryOnS3Backend]:
    with making_sources(read_timeout) as sources, start_cutting_proxy(moto.endpoint) as proxy:
        storage = moto.registry_storage(bucket) | {"endpoint": proxy.url}
        with start_registry(folder / "on S3", s3=storage) as registry:
            yield RegistryOnS3Backend(
                registry=registry,
                scope=scope,
                proxy=proxy,
                sources=sources,
                folder=folder / "guarded",
                moto=moto,
                bucket=bucket,
            )


@contextmanager
def s3_backend(moto: Moto, bucket: str, read_timeout: float = READ_TIMEOUT) -> Iterator[S3Backend]:
    with making_sources(read_timeout) as sources, start_cutting_proxy(moto.endpoint) as proxy:
        yield S3Backend(moto, bucket, proxy, sources)


@contextmanager
def mds_backend(folder: Path, read_timeout: float = READ_TIMEOUT) -> Iterator[MdsBackend]:
    engine = sa.create_engine(f"sqlite:///{folder / 'mds.sqlite'}")
    try:
        with (
            making_sources(read_timeout) as sources,
            start_mds() as mds,
            start_cutting_proxy(mds.server.url) as proxy,
        ):
            yield MdsBackend(mds, proxy, engine, sources)
    finally:
        engine.dispose()
