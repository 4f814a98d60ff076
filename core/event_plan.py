"""The plan for a registry's notifications: layers to queue, and manifests to resolve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.digest import Digest
from core.errors import InvalidName
from core.events import Event, Notification, Reference
from core.layer import Layer, why_not_brewed
from core.manifests.media_types import ALL_MANIFESTS, IMAGES

_LAYER_MARKS = ("image.rootfs.diff", "image.layer.")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write for a notification; manifests are (scope, digest).

    `known` are those whose layers are all among `layers`; `deleted` blobs should be looked for;
    `malformed` are (digest, scope) of layers whose digest is not SHA-256. A layer's size is None if it is
    unknown, or two events disagree.
    """

    layers: tuple[Layer, ...]
    manifests: tuple[tuple[str, Digest], ...]
    known: tuple[tuple[str, Digest], ...]
    deleted: tuple[Digest, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.layers or self.malformed or self.manifests or self.deleted)


def plan(notification: Notification, has_role: Callable[[str], bool]) -> Plan:
    """Return what to queue, each thing once, in the order of the events.

    `has_role` returns whether a scope's pushes are brewed; it is called once per scope. For an image, the
    layers among its references are queued; an index, and an image without references, are to be resolved. A
    blob is queued if its media type is a layer's. Registries send application/octet-stream for layers and
    configs alike: then the manifest's event decides.
    """
    roles: dict[str, bool] = {}
    layers: dict[tuple[Digest, str], None] = {}
    malformed: dict[tuple[str, str], None] = {}
    sizes: dict[Digest, int | None] = {}
    manifests: dict[tuple[str, Digest], None] = {}
    known: dict[tuple[str, Digest], None] = {}
    for event in notification.events:
        if event.scope not in roles:
            roles[event.scope] = has_role(event.scope)
        if not roles[event.scope]:
            continue
        if event.media_type not in ALL_MANIFESTS:
            named = _blob(event)
        elif event.media_type in IMAGES and event.references is not None:
            known[event.scope, Digest.parse(event.digest)] = None
            named = _layers(event.references)
        else:
            manifests[event.scope, Digest.parse(event.digest)] = None
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


def _layers(references: tuple[Reference, ...]) -> list[tuple[str, int | None]]:
    """Return the layers among an image's references, whose first is the config, each with its size."""
    first, *others = references
    named = [first, *others] if _is_layer_type(first.media_type) else others
    return [
        (str(one.digest), one.size)
        for one in named
        if why_not_brewed(one.media_type, one.size, has_urls=one.has_urls) is None
    ]


def _blob(event: Event) -> list[tuple[str, int | None]]:
    """Return the blob and its size, if its media type is that of a layer to brew."""
    if not _is_layer_type(event.media_type) or why_not_brewed(event.media_type, event.size) is not None:
        return []
    return [(event.digest, event.size)]


def _is_layer_type(media_type: str) -> bool:
    return any(mark in media_type for mark in _LAYER_MARKS)
