"""Every error that this service raises on purpose, in one tree.

DockerTorrentsError
├── ConfigInvalid, CannotListen, InvalidName, EngineConfigInvalid, CapabilityInvalid
├── ManifestInvalid (_TooLarge in core/registry/image_tree.py), EventsMalformed, SwarmMessageInvalid
├── RemoteError: Unavailable (TooManyRequests), TimedOut, ConnectionCut, Refused, NotFound,
│       BadAnswer (WrongBytes in node/fetch.py), RangeIgnored
├── LayerError: DigestMismatch, SizeMismatch, LayerEmpty
├── LocalFailure: StoreFailed, CacheFailed
├── Interrupted, RegistryDown, MetainfoMissing, AccessDenied, NoVerdict
└── DatabaseError
    ├── DatabaseDown: LayersDropped, DatabaseBusy, DatabaseRefused, DatabaseNotReady
    └── RbtorrentIdTaken

An error carries its data as attributes, and its text is one line, fit for a log. None holds a secret: no
token, no password, no URL with a signature, no SQL parameters. A library's errors are translated once,
where the library is used.
"""

from __future__ import annotations

from typing import ClassVar


class DockerTorrentsError(Exception):
    """The root. `why` is the cause, which `prefix` precedes in the text.

    `permanent` is whether another attempt would fail too: the queue sets the layer aside at once.
    """

    permanent: ClassVar[bool] = False
    prefix: str = ""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(self.prefix + why)


class ConfigInvalid(DockerTorrentsError):
    """The configuration cannot be used. `problems` holds one line for each mistake."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where, self.problems = where, problems
        super().__init__(f"{where}: " + "; ".join(problems))


class CannotListen(DockerTorrentsError):
    """The configured address is in use, or not an address of this machine. `why` is the system's message."""

    def __init__(self, host: str, port: int, why: str) -> None:
        self.prefix = f"cannot listen at {host or '::'} port {port}: "
        super().__init__(why)


class InvalidName(DockerTorrentsError, ValueError):
    """An invalid scope, tag, digest or reference. `what` is the kind of name."""

    permanent = True

    def __init__(self, what: str, value: object, why: str) -> None:
        self.what = what
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        article = "an" if what[:1] in "aeiou" else "a"
        super().__init__(f"{shown} is not {article} {what}: {why}")


class RemoteError(DockerTorrentsError):
    """A server, a bucket or a disk did not return what was requested.

    `where` names the resource: a URL without its query, `s3://bucket/key`, a path.
    """

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.prefix = f"{where}: {self.prefix}"
        super().__init__(why)


class Unavailable(RemoteError):
    """The server cannot be reached, or answers 5xx. `retry_after` is in seconds."""

    prefix = "unavailable: "

    def __init__(self, where: str, why: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(where, why)


class TooManyRequests(Unavailable):
    """The server limits the rate of requests (429). It works, but answers no request for a while."""


class TimedOut(RemoteError):
    """The server gave no answer, or too little of it, within `seconds`."""

    def __init__(self, where: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(where, f"timed out after {seconds:g} s")


class ConnectionCut(RemoteError):
    """The connection broke at byte `offset` of the body, before its end."""

    def __init__(self, where: str, offset: int, why: str) -> None:
        self.offset = offset
        self.prefix = f"connection cut at byte {offset}: "
        super().__init__(where, why)


class Refused(RemoteError):
    """The server refuses these credentials. `status` is None if it is not HTTP."""

    def __init__(self, where: str, status: int | None, why: str) -> None:
        self.status = status
        self.prefix = "refused: " if status is None else f"refused ({status}): "
        super().__init__(where, why)


class NotFound(RemoteError):
    """`where` does not exist, perhaps not yet: a push may be in progress."""

    def __init__(self, where: str) -> None:
        super().__init__(where, "not found")


class BadAnswer(RemoteError):
    """The answer breaks its protocol, or is longer than any that this service reads."""

    prefix = "bad answer: "


class RangeIgnored(RemoteError):
    """The server answers a Range request with the whole body, as HTTP allows (RFC 9110, 14.2).

    Nothing was read; the caller may request the whole body instead.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where, "the server ignores Range")


NO_ANSWER = (Unavailable, TimedOut, ConnectionCut)
"""Errors of a server that is down, in contrast to one that answers with an error."""


class LayerError(DockerTorrentsError):
    """A layer cannot be brewed, whatever its source."""

    permanent = True


class DigestMismatch(LayerError):
    """The bytes do not match the layer's digest."""

    def __init__(self, expected: str, got: str) -> None:
        self.expected, self.got = expected, got
        super().__init__(f"the bytes have digest {got}, not {expected}")


class SizeMismatch(LayerError):
    """The layer is longer or shorter, in bytes, than its descriptor or its source says."""

    def __init__(self, expected: int, got: int) -> None:
        self.expected, self.got = expected, got
        super().__init__(f"the layer has {got} bytes, not {expected}")


class LayerEmpty(LayerError):
    """A blob of length 0, for which BEP 3 has no torrent."""


class Interrupted(DockerTorrentsError):
    """The process is stopping, or the download ended. A layer being brewed returns to the queue."""

    def __init__(self) -> None:
        super().__init__("interrupted")


class RegistryDown(DockerTorrentsError):
    """The registry answers no request at all, which ends a job's run. `why` is the last error."""


class ManifestInvalid(DockerTorrentsError):
    """A manifest that contradicts its specification, or itself: nothing in it is trusted."""

    prefix = "invalid manifest: "


class EventsMalformed(DockerTorrentsError):
    """A notification whose body is not an envelope of events."""

    prefix = "not an envelope of events: "


class SwarmMessageInvalid(DockerTorrentsError):
    """A request or an answer of the swarm call that is not JSON, too long, or invalid."""

    prefix = "invalid swarm message: "


class EngineConfigInvalid(DockerTorrentsError):
    """A file of a container engine that cannot be changed safely. `why` is the remedy."""


class CapabilityInvalid(DockerTorrentsError):
    """A web seed's capability that is not valid for this layer, or has expired. `why` never contains it."""

    prefix = "the capability is "


class AccessDenied(DockerTorrentsError):
    """Access denied, or the authority is unavailable.

    `status` is the HTTP status to answer, `headers` are sent with it (such as a challenge), `code` and
    `message` are for the registry's error JSON. None of them contains a token.
    """

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], code: str, message: str) -> None:
        self.status, self.headers, self.code, self.message = status, headers, code, message
        super().__init__(f"{status} {code}: {message}")


class NoVerdict(DockerTorrentsError):
    """Blackbox gives no verdict on a token. `why` does not contain it."""

    prefix = "Blackbox gives no verdict: "


class MetainfoMissing(DockerTorrentsError):
    """The store has no metainfo for this layer."""

    prefix = "no metainfo for "


class LocalFailure(DockerTorrentsError):
    """A file, a store or a stream of this machine cannot be used. `where` names it."""

    prefix = "{where}: "

    def __init__(self, where: str, why: str) -> None:
        self.prefix = self.prefix.format(where=where)
        super().__init__(why)


class StoreFailed(LocalFailure):
    """The metainfo could not be stored: a full disk, an unreachable bucket."""

    prefix = "metainfo store {where} failed: "


class CacheFailed(LocalFailure):
    """A node's cache of layers cannot be used, or has no room. `where` is its directory."""

    prefix = "cache {where}: "


class DatabaseError(DockerTorrentsError):
    """An operation of the database failed."""


class DatabaseDown(DatabaseError):
    """The database cannot be reached, refuses writes, or was lost. `why` is its message.

    The transaction did not happen, with one exception that no client can detect: the connection was lost
    during COMMIT. All writes of this service may safely be repeated.
    """

    prefix = "the database is down: "


class LayersDropped(DatabaseDown):
    """Layers were dropped while they were being queued: the same transaction again queues them."""

    prefix = ""


class DatabaseBusy(DatabaseDown):
    """The database is up, but a lock, a connection or a query takes too long."""

    prefix = "the database is busy: "


class DatabaseRefused(DatabaseDown):
    """The database is up and refuses this user. `why` is its message."""

    prefix = "the database is up, but refuses access: "


class DatabaseNotReady(DatabaseDown):
    """The database lacks a table, a column or a privilege, named in `why`."""

    prefix = "the database is not ready: "


class RbtorrentIdTaken(DatabaseError):
    """Another layer has this rbtorrent id, which is unique. The transaction is aborted.

    It is the SHA-1 of bytes that contain the layer's own digest, so two layers never share one: the other
    row was written by something else.
    """
