"""A registry's push notifications: read from a body nobody vouches for, and turned into work.

docker/distribution, docs/notifications: an envelope `{"events": [...]}`, in practice one event each time.
A registry sends its events in order and repeats a refused one for ever, so what it may send in good faith
must never be refused: one odd event among others is left out and told of, and only a body that is no
envelope at all raises EventsMalformed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from core.digest import Digest
from core.errors import EventsMalformed, InvalidName
from core.layer import Layer, why_not_brewed
from core.manifests.media_types import ALL_MANIFESTS, IMAGES
from core.names import parse_scope

_MAX_SIZE = 2**63 - 1
# What distribution's grammar of references calls a digest, as far as the queue has room for it. The layer in
# the specification's own example has a digit too many to be a SHA-256: it is queued as the specification
# says, and brewing it sets it aside with the reason.
_BLOB_DIGEST = re.compile(r"sha256:[0-9a-f]{32,121}\Z")
_LAYER_MARKS = ("image.rootfs.diff", "image.layer.")


@dataclass(frozen=True, slots=True)
class Reference:
    """A blob or manifest that a pushed manifest names. `size` is bytes, None where nobody said."""

    media_type: str
    digest: Digest
    size: int | None
    has_urls: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A push or a mount. `references` is None where the registry does not send them, or not readably."""

    media_type: str
    digest: str
    size: int | None
    scope: str
    references: tuple[Reference, ...] | None


@dataclass(frozen=True, slots=True)
class Notification:
    """An envelope: the events that can be used, and one line on each that cannot. `deleted` are digests of
    blobs and manifests that were taken out of a repository.
    """

    events: tuple[Event, ...]
    odd: tuple[str, ...]
    deleted: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """A manifest in a repository, by digest."""

    scope: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Plan:
    """What a notification asks for.

    `known` are manifests whose layers are all among `layers`; `deleted` blobs should be looked for;
    `malformed` are (digest, scope) of layers whose digest is not SHA-256. A layer's size is None if it is
    unknown, or two events disagree.
    """

    layers: tuple[Layer, ...]
    manifests: tuple[ManifestRef, ...]
    known: tuple[ManifestRef, ...]
    deleted: tuple[Digest, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.layers or self.malformed or self.manifests or self.deleted)


def parse_events(body: bytes) -> Notification:
    """The events in `body`. Raises EventsMalformed if it is no JSON object with a list of `events`.

    An event counts as odd if it lacks its action or target, or names a repository or a digest that is
    none. Of deletions only the digest is looked at, and those of a tag alone have none; of all but these,
    pushes and mounts nothing is.
    """
    try:
        envelope = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise EventsMalformed("nested too deeply") from None
    except ValueError as error:  # of the decoding, of JSON, and of numbers with thousands of digits
        raise EventsMalformed(f"not JSON: {str(error)[:80]}") from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("events"), list):
        raise EventsMalformed("expected an object with a list of events")
    events, odd = [], []
    deleted = dict.fromkeys(digest for given in envelope["events"] if (digest := _deleted(given)))
    for number, given in enumerate(envelope["events"]):
        try:
            event = _event(given)
        except InvalidName as error:
            odd.append(f"event {number}: {error}")
        else:
            if event is not None:
                events.append(event)
    return Notification(tuple(events), tuple(odd), tuple(deleted))


def plan(notification: Notification, has_role: Callable[[str], bool]) -> Plan:
    """What to queue for a notification's events, each thing once, in the order of the events.

    `has_role` says whether a scope's pushes are brewed; it is asked once a scope. A pushed or mounted image
    queues the layers among its references, a list or index is put down to be resolved, and so is an image
    without references. A blob is queued if its media type says layer: registries call layers and configs
    application/octet-stream alike, and then the manifest's own event tells.
    """
    roles: dict[str, bool] = {}
    layers: dict[tuple[Digest, str], None] = {}
    malformed: dict[tuple[str, str], None] = {}
    sizes: dict[Digest, int | None] = {}
    manifests: dict[ManifestRef, None] = {}
    known: dict[ManifestRef, None] = {}
    for event in notification.events:
        if event.scope not in roles:
            roles[event.scope] = has_role(event.scope)
        if not roles[event.scope]:
            continue
        if event.media_type not in ALL_MANIFESTS:
            named = _blob(event)
        elif event.media_type in IMAGES and event.references is not None:
            known[ManifestRef(event.scope, Digest.parse(event.digest))] = None
            named = _layers(event.references)
        else:
            manifests[ManifestRef(event.scope, Digest.parse(event.digest))] = None
            named = []
        for name, size in named:
            try:
                digest = Digest.parse(name)
            except InvalidName:
                malformed[name, event.scope] = None
                continue
            layers[digest, event.scope] = None
            sizes[digest] = size if sizes.get(digest, size) == size else None
    return Plan(
        tuple(Layer(digest, (scope,), sizes[digest]) for digest, scope in layers),
        tuple(manifest for manifest in manifests if manifest not in known),
        tuple(known),
        notification.deleted,
        tuple(malformed),
    )


def _deleted(given: Any) -> Digest | None:
    """The digest of what was deleted; None of other events, and of tags."""
    if not isinstance(given, dict) or given.get("action") != "delete":
        return None
    target = given.get("target")
    try:
        return Digest.parse(target.get("digest") if isinstance(target, dict) else None)
    except InvalidName:
        return None


def _event(given: Any) -> Event | None:
    """The event, None if it is one of those that nobody acts on. Raises InvalidName if it is odd."""
    if not isinstance(given, dict):
        raise InvalidName("event", type(given).__name__, "expected an object")
    action = given.get("action")
    if not isinstance(action, str):
        raise InvalidName("action", action, "expected text")
    if action in ("pull", "delete"):
        return None
    if action not in ("push", "mount"):
        raise InvalidName("action", action, "expected push, mount, pull or delete")
    target = given.get("target")
    if not isinstance(target, dict):
        raise InvalidName("target", type(target).__name__, "expected an object")
    media_type = _media_type(target.get("mediaType"))
    return Event(
        media_type=media_type,
        digest=_digest(target.get("digest"), media_type),
        size=_size(target.get("size", target.get("length"))),
        scope=parse_scope(target.get("repository")),
        references=_references(target.get("references")),
    )


def _digest(given: Any, media_type: str) -> str:
    """A manifest is fetched by its digest, so it has to be a true one; a blob is only queued."""
    if isinstance(given, str) and media_type not in ALL_MANIFESTS and _BLOB_DIGEST.match(given):
        return given
    return str(Digest.parse(given))


def _references(given: Any) -> tuple[Reference, ...] | None:
    """All of a manifest's references; None if one cannot be read: then the manifest itself is asked."""
    if not isinstance(given, list) or not given:
        return None
    try:
        return tuple(_reference(one) for one in given)
    except InvalidName:
        return None


def _reference(given: Any) -> Reference:
    if not isinstance(given, dict):
        raise InvalidName("reference", type(given).__name__, "expected an object")
    media_type = _media_type(given.get("mediaType"))
    digest, size = Digest.parse(given.get("digest")), _size(given.get("size"))
    return Reference(media_type, digest, size, has_urls=bool(given.get("urls")))


def _layers(references: tuple[Reference, ...]) -> list[tuple[str, int | None]]:
    """The layers among the references of an image, which names its config first, each with its size."""
    first, *others = references
    named = [first, *others] if _says_layer(first.media_type) else others
    return [
        (str(one.digest), one.size)
        for one in named
        if why_not_brewed(one.media_type, one.size, has_urls=one.has_urls) is None
    ]


def _blob(event: Event) -> list[tuple[str, int | None]]:
    """The blob and its size, if its media type says that it is a layer that the registry holds."""
    if not _says_layer(event.media_type) or why_not_brewed(event.media_type, event.size) is not None:
        return []
    return [(event.digest, event.size)]


def _says_layer(media_type: str) -> bool:
    return any(mark in media_type for mark in _LAYER_MARKS)


def _media_type(given: Any) -> str:
    return given.partition(";")[0].strip().lower() if isinstance(given, str) else ""


def _size(given: Any) -> int | None:
    """A number of bytes that fits the queue's column, None for anything else (True is no number)."""
    return given if type(given) is int and 0 <= given <= _MAX_SIZE else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
