"""The places that layers are in, as the configuration has them: to read from, and to look through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from core.config.config import Config
from core.errors import ConfigInvalid
from core.http.client import HttpClient
from core.presence.presence import Lookout
from core.presence.registry import RegistryLookout
from core.presence.storage import StorageLookout
from core.registry.client import RegistryClient
from core.s3_bucket import READ_SECONDS, open_bucket
from core.sources.directory import DirectorySource
from core.sources.mds import FindFile, MdsSource
from core.sources.registry import RegistrySource
from core.sources.s3 import S3Source
from core.sources.source import LayerSource
from core.storages.directory import DirectoryStorage
from core.storages.layout import StorageLayout
from core.storages.mds import MdsStorage, ReadPage
from core.storages.s3 import S3Storage
from core.storages.storage import Storage

Kind = Literal["s3", "directory", "mds"]


class LayerPlaces:
    """Makes sources and storages. `candidate_scopes` are where to look for a layer that nobody has named a
    repository for; `find_file` and `read_page` read the tables of MDS. Nothing is connected yet.
    """

    def __init__(
        self,
        config: Config,
        registry: RegistryClient,
        candidate_scopes: Callable[[], Iterable[str]],
        find_file: FindFile,
        read_page: ReadPage,
    ) -> None:
        self._config = config
        self._registry = registry
        self._candidate_scopes = candidate_scopes
        self._find_file = find_file
        self._read_page = read_page
        self.layout = StorageLayout(config.db.blob_path_template, config.db.blob_path_digest_index)

    def source(self) -> LayerSource:
        """What layers are read from."""
        kind = self._config.layers.source
        if kind == "registry":
            return RegistrySource(self._registry, self._candidate_scopes)
        return self.storage(kind)[1]

    def storage(self, kind: Kind | None = None) -> tuple[Storage, LayerSource]:
        """The registry's storage of this kind, by default the one that layers are read from, and the source
        that reads its blobs. Raises ConfigInvalid if there are no settings for it.
        """
        config, layers = self._config, self._config.layers
        template = config.db.blob_path_template
        kind = kind or (layers.source if layers.source != "registry" else None)
        if kind == "directory" and layers.directory:
            return DirectoryStorage(layers.directory), DirectorySource(layers.directory, template)
        if kind == "s3" and layers.bucket:
            bucket = open_bucket(config.s3, layers.bucket)
            return (
                S3Storage(bucket, layers.prefix, read_timeout=READ_SECONDS),
                S3Source(bucket, layers.prefix, template, read_timeout=READ_SECONDS),
            )
        if kind == "mds" and config.mds:
            mds = config.mds
            http = HttpClient(mds.connect_timeout, mds.read_timeout)
            source = MdsSource(http, mds.url_template, mds.namespace, template, self._find_file)
            return MdsStorage(self._read_page), source
        lacking = {"directory": "layers.directory", "s3": "layers.bucket", "mds": "the section mds"}
        raise ConfigInvalid(
            "the storage",
            [
                f"{lacking[kind]} is not given"
                if kind
                else "layers.source is registry: say with --from which storage is to be looked through"
            ],
        )

    def lookout(self) -> Lookout:
        """Where layers are looked for that may be gone: where they are read from."""
        if self._config.layers.source == "registry":
            return RegistryLookout(self._registry)
        storage, source = self.storage()
        return StorageLookout(source, storage, self.layout.blobs)
