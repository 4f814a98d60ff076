"""What a tag leads to: an image's layers, or an index and all the images below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from core.digest import Digest
from core.errors import BadAnswer, ManifestInvalid, NotFound
from core.manifests.manifest import Image, Index, LayerDescriptor, parse_manifest
from core.manifests.platform import Platform
from core.registry.client import RegistryClient

Known = Literal["no", "in part", "whole"]
"""Whether a manifest and all below it was read before: `in part` for the wanted platforms."""

MAX_DEPTH = 4
"""Indexes may hold indexes (OCI image-index.md); deeper than this nobody nests them in earnest."""


@dataclass(frozen=True)
class ReadManifest:
    """A manifest that was read.

    `platform` is what an index names for it, if one does. `missing` are manifests below it that the registry
    lacks, or that are none; `left_out` are the platforms of those below it that were not wanted. It is read
    `in_part` if some below it were read before, for the wanted platforms only.
    """

    digest: Digest
    layers: tuple[LayerDescriptor, ...] = ()
    missing: tuple[Digest, ...] = ()
    platform: Platform | None = None
    left_out: tuple[Platform, ...] = ()
    in_part: bool = False

    @property
    def skipped(self) -> bool:
        """Whether some manifests below it were not wanted."""
        return self.in_part or bool(self.left_out)


def read_tree(
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    *,
    platforms: tuple[Platform, ...] = (),
    known: Callable[[Digest], Known] = lambda digest: "no",
) -> Iterator[ReadManifest]:
    """Reads the manifest at `reference` and all below it, children before their index.

    Children that are `known` are not read again; with `platforms`, only those for one of them
    are read. Attestations are left out, and what is no image has no layers. Raises RemoteError for
    what cannot be read, a child excepted that the registry lacks or that is no manifest.
    """
    return _Reading(registry, scope, platforms, known).read(reference, frozenset())


@dataclass(frozen=True)
class _Reading:
    registry: RegistryClient
    scope: str
    platforms: tuple[Platform, ...]
    known: Callable[[Digest], Known]

    def read(
        self, reference: str | Digest, above: frozenset[Digest], platform: Platform | None = None
    ) -> Iterator[ReadManifest]:
        fetched = self.registry.fetch_manifest(self.scope, reference)
        manifest = parse_manifest(fetched.body, fetched.media_type)
        if isinstance(manifest, Image):
            yield ReadManifest(fetched.digest, manifest.layers, platform=platform)
        elif isinstance(manifest, Index):
            yield from self._read_children(manifest, fetched.digest, above | {fetched.digest}, platform)
        else:
            yield ReadManifest(fetched.digest, platform=platform)

    def _read_children(
        self, index: Index, digest: Digest, above: frozenset[Digest], platform: Platform | None
    ) -> Iterator[ReadManifest]:
        if len(above) > MAX_DEPTH:
            raise BadAnswer(f"{self.scope}@{digest}", f"indexes nested deeper than {MAX_DEPTH}")
        missing: list[Digest] = []
        left_out: list[Platform] = []
        in_part = False
        for child in index.children:
            if child.attestation or child.digest in above:
                continue
            if (known := self.known(child.digest)) != "no":
                in_part = in_part or known == "in part"
                continue
            if child.platform is not None and not self._wants(child.platform):
                left_out.append(child.platform)
                continue
            try:
                for read in self.read(child.digest, above, child.platform or platform):
                    missing += read.missing
                    left_out += read.left_out
                    in_part = in_part or read.in_part
                    yield read
            except (NotFound, ManifestInvalid):
                missing.append(child.digest)
        yield ReadManifest(
            digest, missing=tuple(missing), left_out=tuple(dict.fromkeys(left_out)), in_part=in_part
        )

    def _wants(self, platform: Platform) -> bool:
        """Whether a child for `platform` is read. A child that names none always is."""
        return not self.platforms or any(wanted.takes(platform) for wanted in self.platforms)
