"""Find the image of a reference: the manifest itself, or in an index the one for a platform.

An index is not read with core/registry/image_tree.py, which reads all images with the service's credentials:
here the first fitting one is enough, and the registry authorizes each request of the caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from core.digest import Digest
from core.errors import BadAnswer, ManifestInvalid, TimedOut
from core.http.client import HttpAnswer
from core.manifests.augment import FIELD, names_an_id, pick
from core.manifests.manifest import Index, Other, digest_of
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_tree import MAX_DEPTH
from web.augmented import ImageManifest, parse

MAX_MANIFESTS = 8
"""Manifests that one request may fetch: enough for any real index."""

MAX_LAYERS = 1_000
"""Larger images are passed on without ids: registries accept 12,000 layers, and rewriting such a manifest
would delay other requests."""

MAX_BYTES = 1024 * 1024
"""The same for long manifests: a thousand layers have some 200 KiB, the rest would be annotations."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundImage:
    """An image's manifest: the registry's answer, and its parsed body."""

    answer: HttpAnswer
    manifest: ImageManifest


def find_image(
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    headers: Mapping[str, str],
    platform: Platform,
    seconds: float,
) -> FoundImage | HttpAnswer | None:
    """Return the image, or the registry's answer if it cannot be augmented: an error, schema 1, an
    artifact; None if the index has no image for `platform`.

    `headers` are sent with each request, so that the registry authorizes the caller each time. All requests
    together may take `seconds`. Raises RemoteError, ManifestInvalid.
    """
    until = time.monotonic() + seconds
    first = answer = registry.forward(
        "GET", registry.urls.manifest(scope, reference), headers, seconds=seconds
    )
    digest: Digest | None = reference if isinstance(reference, Digest) else None
    depth, requests = 1, 1
    left: list[tuple[Digest, int]] = []
    seen: set[Digest] = set()
    refused: HttpAnswer | None = None
    while True:
        if answer.status == 200 and _too_large(answer.body):
            log.info("manifest too large for ids url=%s bytes=%d", answer.target, len(answer.body))
            return _without_ids(answer)
        read = _read(answer, digest)
        if isinstance(read, ImageManifest):
            return FoundImage(answer, read)
        if isinstance(read, Index) and depth <= MAX_DEPTH:
            left[:0] = [(child.digest, depth + 1) for child in pick(read, platform)]
        elif answer is first:
            return _without_ids(first)
        elif read is None and answer.status != 404:
            return answer
        elif read is None:
            refused = refused or answer
        left = [(child, deep) for child, deep in left if child not in seen]
        if not left or requests >= MAX_MANIFESTS:
            break
        digest, depth = left.pop(0)
        seen.add(digest)
        requests += 1
        left_seconds = until - time.monotonic()
        if left_seconds <= 0:
            log.warning("index not read in time url=%s seconds=%g", first.target, seconds)
            raise TimedOut(str(first.target), seconds)
        answer = registry.forward("GET", registry.urls.manifest(scope, digest), headers, seconds=left_seconds)
    return refused


def _too_large(body: bytes) -> bool:
    """Return whether rewriting a manifest would take long, without parsing it."""
    # The letters of a key may be escaped.
    digests = body.count(b'"digest"') + body.count(rb"\u00")
    return len(body) > MAX_BYTES or digests > MAX_LAYERS + 1  # and the config


def _without_ids(answer: HttpAnswer) -> HttpAnswer:
    """Return the unchanged answer. Raises ManifestInvalid if it was pushed with an id."""
    if answer.status == 200 and names_an_id(answer.body):
        raise ManifestInvalid(f"{FIELD} was pushed with it, and cannot be removed")
    return answer


def _read(answer: HttpAnswer, expected: Digest | None) -> ImageManifest | Index | Other | None:
    """Parse the registry's answer; None for an error.

    Raises BadAnswer if these are not the requested bytes: a client cannot verify them once ids are
    added.
    """
    if answer.status != 200:
        return None
    content_type = answer.headers.get("Content-Type") or ""
    if answer.headers.get("Content-Encoding"):
        return Other(content_type)
    try:
        read = parse(answer.body, content_type)
    except ManifestInvalid as invalid:
        log.warning("manifest invalid, passed on without ids url=%s reason=%s", answer.target, invalid)
        return Other(content_type)
    if not isinstance(read, Other):
        digest = read.digest if isinstance(read, ImageManifest) else digest_of(answer.body)
        claimed = str(expected) if expected else answer.headers.get("Docker-Content-Digest")
        # A registry may name its digest of another algorithm (distribution-spec, pulling manifests).
        if claimed is not None and claimed.startswith(Digest.PREFIX) and claimed != str(digest):
            raise BadAnswer(str(answer.target), f"the manifest has digest {digest}, not {claimed}")
    return read
