"""A registry's notifications: parse the body event by event (core/event_plan.py: what to queue).

docker/distribution, docs/notifications: an envelope `{"events": [...]}`, in practice one event each time.
A registry sends its events in order and repeats a refused one forever, so nothing that it may legitimately
send is refused: an invalid event is skipped and logged. Only a body that is not an envelope raises
EventsMalformed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from core.digest import Digest
from core.errors import EventsMalformed, InvalidName
from core.manifests.media_types import ALL_MANIFESTS
from core.names import parse_scope

MAX_REPORTED = 5
"""Invalid events of one body that are described; further ones are counted."""

_MAX_SIZE = 2**63 - 1
# A digest by distribution's grammar of references, if it fits the queue's column. The layer in the
# specification's own example has a digit too many for a SHA-256: it is queued as the specification says, and
# brewing sets it aside with the reason.
_BLOB_DIGEST = re.compile(r"sha256:[0-9a-f]{32,121}\Z")
_SPACES = frozenset(" \t\n\r")
_SPACE = re.compile(r"[ \t\n\r]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A blob or manifest that a pushed manifest references. `size` is in bytes, None if unknown."""

    media_type: str
    digest: Digest
    size: int | None
    has_urls: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A push or a mount. `references` is None if the registry does not send them, or one is invalid."""

    media_type: str
    digest: str
    size: int | None
    scope: str
    references: tuple[Reference, ...] | None


@dataclass(frozen=True, slots=True)
class Notification:
    """The pushes and mounts of an envelope, and the digests of blobs and manifests that were deleted.

    `skipped` describes the first events that were skipped; `more_skipped` is the number of further ones.
    """

    events: tuple[Event, ...]
    skipped: tuple[str, ...]
    deleted: tuple[Digest, ...] = ()
    more_skipped: int = 0


def parse_events(body: bytes) -> Notification:
    """Parse a body. Raises EventsMalformed if it is not a JSON object with a list `events`.

    An event is invalid if it lacks its action or target, or if its repository or digest is invalid. Pulls are
    ignored; of deletions only the digest counts (those of a tag have none).

    One event at a time is in memory, whatever their number.
    """
    events: list[Event] = []
    skipped: list[str] = []
    deleted: dict[Digest, None] = {}
    more = 0
    try:
        for number, value in enumerate(_iterate_events(body.decode("utf-8"))):
            action = value.get("action") if type(value) is dict else None
            if action == "pull":
                continue
            if action == "delete":
                if digest := _deleted_digest(value):
                    deleted[digest] = None
                continue
            if action not in ("push", "mount") and len(skipped) == MAX_REPORTED:
                more += 1
                continue
            try:
                events.append(_parse_event(value))
            except InvalidName as error:
                if len(skipped) < MAX_REPORTED:
                    skipped.append(f"event {number}: {error}")
                else:
                    more += 1
    except RecursionError:
        raise EventsMalformed("nested too deeply") from None
    except ValueError as error:  # of the decoding, of JSON, and of numbers with thousands of digits
        raise EventsMalformed(f"not JSON: {str(error)[:80]}") from None
    return Notification(tuple(events), tuple(skipped), tuple(deleted), more)


def _iterate_events(text: str) -> Iterator[Any]:
    """Yield the elements of the envelope's `events`. Raises ValueError, EventsMalformed."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = _skip_space(text, 0)
    if text[position : position + 1] != "{":
        decoder.raw_decode(text, position)  # not JSON at all?
        raise EventsMalformed("expected an object with a list of events")
    found = False
    position = _skip_space(text, position + 1)
    while text[position : position + 1] != "}":
        if text[position : position + 1] != '"':
            raise ValueError(f"expected a name at character {position}")
        name, position = decoder.raw_decode(text, position)
        position = _skip_space(text, _expect(text, _skip_space(text, position), ":"))
        if name == "events" and text[position : position + 1] == "[" and not found:
            found = True
            position = yield from _iterate_list(decoder, text, position + 1)
        elif name == "events":
            raise EventsMalformed("expected an object with a list of events")
        else:
            _, position = decoder.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position : position + 1] != "}":
            position = _skip_space(text, _expect(text, position, ","))
            if text[position : position + 1] == "}":
                raise ValueError(f"expected a name at character {position}")
    if _skip_space(text, position + 1) != len(text):
        raise ValueError(f"extra data at character {position + 1}")
    if not found:
        raise EventsMalformed("expected an object with a list of events")


def _iterate_list(decoder: json.JSONDecoder, text: str, position: int) -> Generator[Any, None, int]:
    """Yield the elements of a list whose `[` is before `position`. Return the position after its `]`."""
    position = _skip_space(text, position)
    if text[position : position + 1] == "]":
        return position + 1
    while True:
        value, position = decoder.raw_decode(text, position)
        yield value
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            return position + 1
        position = _skip_space(text, _expect(text, position, ","))


def _skip_space(text: str, position: int) -> int:
    if text[position : position + 1] not in _SPACES:
        return position
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _expect(text: str, position: int, character: str) -> int:
    """Return the position after `character`. Raises ValueError for another one."""
    if text[position : position + 1] != character:
        raise ValueError(f"expected {character!r} at character {position}")
    return position + 1


def _deleted_digest(value: dict[str, Any]) -> Digest | None:
    """Return the digest of the deleted blob or manifest, None for a tag."""
    target = value.get("target")
    return Digest.parse_or_none(target.get("digest")) if isinstance(target, dict) else None


def _parse_event(value: Any) -> Event:
    """Parse a push or a mount. Raises InvalidName if the event is invalid."""
    if not isinstance(value, dict):
        raise InvalidName("event", type(value).__name__, "expected an object")
    action = value.get("action")
    if not isinstance(action, str):
        raise InvalidName("action", action, "expected text")
    if action not in ("push", "mount"):
        raise InvalidName("action", action, "expected push, mount, pull or delete")
    target = value.get("target")
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


def _digest(value: Any, media_type: str) -> str:
    """Return the digest: a valid one for a manifest, which is fetched by it; a blob is only queued."""
    if isinstance(value, str) and media_type not in ALL_MANIFESTS and _BLOB_DIGEST.match(value):
        return value
    return str(Digest.parse(value))


def _references(value: Any) -> tuple[Reference, ...] | None:
    """Return a manifest's references; None if one is invalid: then the manifest is fetched."""
    if not isinstance(value, list) or not value:
        return None
    try:
        return tuple(_reference(one) for one in value)
    except InvalidName:
        return None


def _reference(value: Any) -> Reference:
    if not isinstance(value, dict):
        raise InvalidName("reference", type(value).__name__, "expected an object")
    media_type = _media_type(value.get("mediaType"))
    digest, size = Digest.parse(value.get("digest")), _size(value.get("size"))
    return Reference(media_type, digest, size, has_urls=bool(value.get("urls")))


def _media_type(value: Any) -> str:
    return value.partition(";")[0].strip().lower() if isinstance(value, str) else ""


def _size(value: Any) -> int | None:
    """Return a number of bytes that fits the queue's column, None for anything else (True, too)."""
    return value if type(value) is int and 0 <= value <= _MAX_SIZE else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
