"""Creates the configured backends for reading, listing and checking layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from core.blobs.directory import DirectoryBlobs
from core.blobs.mds import FindFile, MdsBlobs, ReadPage
from core.blobs.presence import PresenceChecker, RegistryPresence, StoragePresence
from core.blobs.registry import RegistryBlobs
from core.blobs.s3 import S3Blobs
from core.blobs.source import BlobSource, BlobStorage
from core.blobs.storage_layout import StorageLayout
from core.clients import http_client, open_bucket
from core.config.config import Config
from core.errors import ConfigInvalid
from core.registry.client import RegistryClient

Kind = Literal["s3", "directory", "mds"]


class BlobBackends:
    """Creates backends from the configuration, without connecting.

    `candidate_scopes` returns the repositories to search for a layer of unknown repository; `find_file` and
    `read_page` read the tables of MDS.
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

    def source(self) -> BlobSource:
        """Return the backend that layers are read from."""
        if self._config.layers.source == "registry":
            return RegistryBlobs(self._registry, self._candidate_scopes)
        return self.storage()

    def storage(self, kind: Kind | None = None) -> BlobStorage:
        """Return the registry's storage of this kind, by default the one that layers are read from.

        Raises ConfigInvalid if the configuration lacks the settings for it.
        """
        config, layers = self._config, self._config.layers
        template = config.db.blob_path_template
        kind = kind or (layers.source if layers.source != "registry" else None)
        if kind == "directory" and layers.directory:
            return DirectoryBlobs(layers.directory, template)
        if kind == "s3" and layers.bucket:
            bucket = open_bucket(config, layers.bucket)
            return S3Blobs(bucket, layers.prefix, template)
        if kind == "mds" and config.mds:
            mds = config.mds
            http = http_client(config, mds.connect_timeout, mds.read_timeout)
            return MdsBlobs(http, mds.url_template, mds.namespace, template, self._find_file, self._read_page)
        if kind is None:
            raise ConfigInvalid(
                "layers.source", ["a registry cannot be listed: name the storage to list with --from"]
            )
        section, key = {
            "directory": ("layers", "directory"),
            "s3": ("layers", "bucket"),
            "mds": ("mds", "the section"),
        }[kind]
        raise ConfigInvalid(section, [f"{key} is required to read from {kind}"])

    def presence_checker(self) -> PresenceChecker:
        """Return a checker of whether layers still exist in their source."""
        if self._config.layers.source == "registry":
            return RegistryPresence(self._registry)
        return StoragePresence(self.storage(), self.layout.blobs)
