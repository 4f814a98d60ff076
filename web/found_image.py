"""Finds the image that a reference leads to: itself, or within an index the one for a platform."""

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
from web.augmented import ReadImage, read_manifest

MOST_ASKED = 8
"""Manifests that one request may cost the registry: enough for any index that was built in earnest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundImage:
    """An image's manifest: the registry's answer, and what was read from it."""

    answer: HttpAnswer
    read: ReadImage


class NoImage(Exception):
    """The index has no image for the platform."""


def find_image(
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    headers: Mapping[str, str],
    platform: Platform,
    seconds: float,
) -> FoundImage | HttpAnswer:
    """The image, or the registry's answer where there is none to augment: an error, schema 1, an artifact.

    `headers` go along with each request, so the registry judges the caller each time. All of them together
    may take `seconds`. Raises RemoteError, ManifestInvalid among them; NoImage where an index was read to
    its end.
    """
    until = time.monotonic() + seconds
    first = answer = registry.forward("GET", scope, reference, headers, seconds=seconds)
    digest: Digest | None = reference if isinstance(reference, Digest) else None
    depth, asked = 1, 1
    left: list[tuple[Digest, int]] = []
    seen: set[Digest] = set()
    refused: HttpAnswer | None = None
    while True:
        read = _read(answer, digest)
        if isinstance(read, ReadImage):
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
        if not left or asked >= MOST_ASKED:
            break
        digest, depth = left.pop(0)
        seen.add(digest)
        asked += 1
        left_seconds = until - time.monotonic()
        if left_seconds <= 0:
            raise TimedOut(str(first.target), seconds)
        answer = registry.forward("GET", scope, digest, headers, seconds=left_seconds)
    if refused is not None:
        return refused
    raise NoImage


def _without_ids(answer: HttpAnswer) -> HttpAnswer:
    """The answer, to be given as it is to somebody who looks for ids. Raises ManifestInvalid if there is one
    in it: whoever pushed it wrote that.
    """
    if answer.status == 200 and names_an_id(answer.body):
        raise ManifestInvalid(f"{FIELD} was pushed with it, and cannot be taken out")
    return answer


def _read(answer: HttpAnswer, expected: Digest | None) -> ReadImage | Index | Other | None:
    """What the registry gave: an image, an index, something else; None for an error.

    Raises BadAnswer if these are not the bytes that were asked for: who gets them with ids in them
    cannot tell any more.
    """
    if answer.status != 200:
        return None
    content_type = answer.headers.get("Content-Type") or ""
    if answer.headers.get("Content-Encoding"):
        return Other(content_type)
    try:
        read = read_manifest(answer.body, content_type)
    except ManifestInvalid as invalid:
        log.warning("manifest not understood, it gets no ids url=%s reason=%s", answer.target, invalid)
        return Other(content_type)
    if not isinstance(read, Other):
        digest = read.digest if isinstance(read, ReadImage) else digest_of(answer.body)
        promised = str(expected) if expected else answer.headers.get("Docker-Content-Digest")
        if promised is not None and promised != str(digest):
            raise BadAnswer(str(answer.target), f"the manifest has digest {digest}, not {promised}")
    return read
