"""Reads an image, or an index and every image below it, requesting each manifest once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from core.digest import Digest
from core.errors import BadAnswer, DockerTorrentsError, ManifestInvalid, RemoteError
from core.manifests.manifest import ChildDescriptor, Image, Index, LayerDescriptor, parse_manifest
from core.manifests.media_types import ALL_MANIFESTS
from core.manifests.platform import Platform
from core.registry.client import FetchedManifest, RegistryClient

Known = Literal["no", "in part", "whole"]
"""Whether a manifest and all below it was read in an earlier walk: `in part` for the wanted platforms."""

MAX_DEPTH = 4
"""Levels of indexes. They may be nested (OCI image-index.md), but no known tool nests more than two."""

MAX_ENTRIES = 10_000
"""The maximum number of entries of indexes below one tag."""


@dataclass(frozen=True)
class ReadManifest:
    """A manifest that was read.

    `platform` is the one in its index, if any. `unread` are manifests below it that could not be
    read; `left_out` are the platforms of those below it that were not wanted. It is read `in_part` if some
    below it were read in an earlier walk, for the wanted platforms only.
    """

    digest: Digest
    layers: tuple[LayerDescriptor, ...] = ()
    unread: tuple[Digest, ...] = ()
    platform: Platform | None = None
    left_out: tuple[Platform, ...] = ()
    in_part: bool = False

    @property
    def skipped(self) -> bool:
        """Whether some manifests below it were not wanted."""
        return self.in_part or bool(self.left_out)


def _ignore(digest: Digest, error: DockerTorrentsError) -> None:
    pass


class TreeReader:
    """Reads manifests of one repository, each once, even if several indexes list it.

    With `platforms`, only children for one of them are read, and of these not the `known` ones. Entries of an
    index that are not manifests (BuildKit's cache lists blobs), and attestations, are left out. A child that
    cannot be read is passed to `failed` and counts as unread wherever it is listed; its siblings are read.
    """

    def __init__(
        self,
        registry: RegistryClient,
        scope: str,
        *,
        platforms: tuple[Platform, ...] = (),
        known: Callable[[Digest], Known] = lambda digest: "no",
        failed: Callable[[Digest, DockerTorrentsError], None] = _ignore,
    ) -> None:
        self._registry = registry
        self._scope = scope
        self._platforms = platforms
        self._known = known
        self._failed = failed
        self._read: dict[Digest, ReadManifest] = {}
        self._entries = 0

    def read(self, reference: str | Digest) -> Iterator[ReadManifest]:
        """Yield the manifest at `reference` and those below it, children before their index.

        Yields nothing for a manifest that this reader has read already. Raises RemoteError or
        ManifestInvalid if `reference` itself cannot be read, or if it has more than MAX_ENTRIES below it.
        """
        if isinstance(reference, Digest) and reference in self._read:
            return
        self._entries = 0
        fetched = self._registry.fetch_manifest(self._scope, reference)
        if fetched.digest not in self._read:
            yield from self._below(fetched, None, 0)

    def _below(
        self, fetched: FetchedManifest, platform: Platform | None, depth: int
    ) -> Iterator[ReadManifest]:
        manifest = parse_manifest(fetched.body, fetched.media_type)
        read = ReadManifest(fetched.digest, platform=platform)
        if isinstance(manifest, Image):
            read = replace(read, layers=manifest.layers)
        elif isinstance(manifest, Index):
            if depth == MAX_DEPTH:
                where = f"{self._scope}@{fetched.digest}"
                raise BadAnswer(where, f"indexes nested deeper than {MAX_DEPTH}")
            read = yield from self._children(read, manifest, depth)
        self._read[read.digest] = read
        yield read

    def _children(
        self, read: ReadManifest, index: Index, depth: int
    ) -> Generator[ReadManifest, None, ReadManifest]:
        """Yield the manifests below `index`. Return `read`, updated from its children."""
        unread: dict[Digest, None] = {}
        left_out: dict[Platform, None] = {}
        in_part = False
        for child in index.children:
            if child.attestation or child.media_type not in ALL_MANIFESTS:
                continue
            self._count_entry(read.digest)
            if child.digest not in self._read:
                if child.platform is not None and not self._wants(child.platform):
                    left_out[child.platform] = None
                    continue
                if (known := self._known(child.digest)) != "no":
                    in_part = in_part or known == "in part"
                    continue
                yield from self._child(child, child.platform or read.platform, depth)
            elif (again := self._read[child.digest]).layers and again.platform != child.platform:
                # One image for two platforms: read once, but for both.
                yield replace(again, platform=child.platform)
            below = self._read[child.digest]
            unread.update(dict.fromkeys(below.unread))
            left_out.update(dict.fromkeys(below.left_out))
            in_part = in_part or below.in_part
        return replace(read, unread=tuple(unread), left_out=tuple(left_out), in_part=in_part)

    def _child(self, child: ChildDescriptor, platform: Platform | None, depth: int) -> Iterator[ReadManifest]:
        try:
            fetched = self._registry.fetch_manifest(self._scope, child.digest)
            yield from self._below(fetched, platform, depth + 1)
        except (RemoteError, ManifestInvalid) as error:
            if isinstance(error, _TooLarge):
                raise
            self._read[child.digest] = ReadManifest(child.digest, unread=(child.digest,))
            self._failed(child.digest, error)

    def _count_entry(self, digest: Digest) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise _TooLarge(f"more than {MAX_ENTRIES} entries in the indexes down to {digest}")

    def _wants(self, platform: Platform) -> bool:
        """Return whether a child for `platform` is read. A child without a platform always is."""
        return not self._platforms or any(wanted.takes(platform) for wanted in self._platforms)


class _TooLarge(ManifestInvalid):
    """A tag has too many entries below it."""
