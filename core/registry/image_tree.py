"""What a tag leads to: an image's layers, or an index and all the images below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core.digest import Digest
from core.errors import ManifestInvalid, NotInRegistry, RegistryNonsense
from core.manifests.manifest import Image, Index, LayerDescriptor, parse_manifest
from core.manifests.platform import Platform
from core.registry.client import RegistryClient

MAX_DEPTH = 4
"""Indexes may hold indexes (OCI image-index.md); deeper than this nobody nests them in earnest."""


@dataclass(frozen=True)
class ReadManifest:
    """A manifest that was read.

    `platform` is what an index names for it, if one does. `missing` are manifests below it that the registry
    lacks, or that are none; `left_out` are the platforms of those below it that were not wanted.
    """

    digest: Digest
    layers: tuple[LayerDescriptor, ...] = ()
    missing: tuple[Digest, ...] = ()
    platform: Platform | None = None
    left_out: tuple[Platform, ...] = ()

    @property
    def skipped(self) -> bool:
        """Whether some manifests below it were not wanted."""
        return bool(self.left_out)


def read_tree(
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    *,
    platforms: tuple[Platform, ...] = (),
    known: Callable[[Digest], bool] = lambda digest: False,
) -> Iterator[ReadManifest]:
    """Reads the manifest at `reference` and all below it, children before their index.

    Children for which `known` says so are not read again; with `platforms`, only those for one of them
    are read. Attestations are left out, and what is no image has no layers. Raises RegistryError for
    what cannot be read, a child excepted that the registry lacks or that is no manifest.
    """
    return _Reading(registry, scope, platforms, known).read(reference, frozenset())


@dataclass(frozen=True)
class _Reading:
    registry: RegistryClient
    scope: str
    platforms: tuple[Platform, ...]
    known: Callable[[Digest], bool]

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
            raise RegistryNonsense(f"{self.scope}@{digest}", f"indexes nested deeper than {MAX_DEPTH}")
        missing: list[Digest] = []
        left_out: list[Platform] = []
        for child in index.children:
            if child.attestation or child.digest in above or self.known(child.digest):
                continue
            if child.platform is not None and not self._wants(child.platform):
                left_out.append(child.platform)
                continue
            try:
                for read in self.read(child.digest, above, child.platform or platform):
                    missing += read.missing
                    left_out += read.left_out
                    yield read
            except (NotInRegistry, ManifestInvalid):
                missing.append(child.digest)
        yield ReadManifest(digest, missing=tuple(missing), left_out=tuple(dict.fromkeys(left_out)))

    def _wants(self, platform: Platform) -> bool:
        """Whether a child for `platform` is read. A child that names none always is."""
        return not self.platforms or any(wanted.takes(platform) for wanted in self.platforms)
