"""Every error this service raises on purpose: one tree, and what the queue does about each.

DockerTorrentsError
├── ConfigInvalid            the operator has to mend the configuration
├── CannotListen             the web app does not get its address
├── InvalidName              a scope, tag, digest or reference that is none
├── HttpError                an HTTP exchange failed (core/http/errors.py); who asked turns it into
│                            one of those below
├── LayerError               a layer could not be brewed
│   ├── SetAside             trying again cannot help until somebody looks
│   │   └── DigestMismatch, SizeMismatch, LayerEmpty, LayerForeign
│   ├── TryAgain             the next try may do better
│   │   ├── LayerMissing, SourceRefused
│   │   └── SourceUnavailable, SourceTimeout, SourceCut, RangesIgnored, StoreFailed
│   └── Interrupted          given back, nobody's fault
├── RegistryError            the registry did not give a manifest, a list of tags …
│   ├── RegistryUnavailable, RegistryTimeout, RegistryRefused, NotInRegistry, RegistryNonsense
│   └── ManifestInvalid      a manifest that must not be trusted
├── AccessDenied             this caller does not get this (core/access/access.py)
├── MetainfoMissing          the store has no metainfo for this layer
├── PublishFailed            the tracker's whitelist could not be written
├── CapabilityInvalid        a web seed's URL that does not, or no longer, lets anybody in
├── EventsMalformed          a notification that is none
└── SwarmMessageInvalid      a request or answer of the swarm call that breaks its rules

An error carries its data as attributes and says itself in one line, fit for a log. None carries a
secret: no token, password, or URL with a signature.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Verdict = Literal["set aside", "try again", "give back", "fault"]


class DockerTorrentsError(Exception):
    """The root. `verdict` is what the queue does with a layer whose work raised it."""

    verdict: ClassVar[Verdict] = "fault"


class ConfigInvalid(DockerTorrentsError):
    """The configuration cannot be used. `problems` holds one line for each thing to mend."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        super().__init__(f"{where}: " + "; ".join(problems))


class CannotListen(DockerTorrentsError):
    """The configured address is taken, or none of this machine's. `why` is the system's word for it."""

    def __init__(self, host: str, port: int, why: str) -> None:
        self.host = host
        self.port = port
        self.why = why
        where = f"{host or '::'} port {port} (application.host, application.port)"
        super().__init__(f"cannot listen at {where}: {why[:1].lower()}{why[1:]}")


class InvalidName(DockerTorrentsError, ValueError):
    """Not a scope, tag, digest or reference. `what` is the kind of name, `value` what was given."""

    verdict = "set aside"

    def __init__(self, what: str, value: object, why: str) -> None:
        self.what = what
        self.value = value
        self.why = why
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        super().__init__(f"{shown} is not a {what}: {why}")


class LayerError(DockerTorrentsError):
    """A layer could not be brewed."""


class SetAside(LayerError):
    """Trying again cannot help until somebody has looked."""

    verdict = "set aside"


class TryAgain(LayerError):
    """The next try may do better."""

    verdict = "try again"


class DigestMismatch(SetAside):
    """The bytes are not those that the digest names."""

    def __init__(self, expected: str, got: str) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"the bytes have digest {got}, not {expected}")


class SizeMismatch(SetAside):
    """The layer is longer or shorter, in bytes, than its descriptor or its source says."""

    def __init__(self, expected: int, got: int) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"the layer has {got} bytes, not {expected}")


class LayerEmpty(SetAside):
    """A blob of length 0: a torrent of nothing is no torrent (BEP 3)."""

    def __init__(self) -> None:
        super().__init__("the layer is empty, there is nothing to share")


class LayerForeign(SetAside):
    """A foreign layer (its descriptor has `urls`): the registry does not hold its bytes."""

    def __init__(self) -> None:
        super().__init__("the layer is foreign, its bytes are not the registry's to give")


class LayerMissing(TryAgain):
    """The source does not hold the blob. `where` names the place that was asked.

    It may come: its push may not be over, a storage may be behind.
    """

    def __init__(self, digest: str, where: str) -> None:
        self.digest = digest
        self.where = where
        super().__init__(f"no blob {digest} at {where}")


class SourceRefused(TryAgain):
    """The source will not give the blob to these credentials, which somebody may be about to mend."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        super().__init__(f"{where} refuses: {why}")


class SourceUnavailable(TryAgain):
    """The source cannot be reached, or answers that it cannot serve now."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        super().__init__(f"{where} is unavailable: {why}")


class SourceTimeout(TryAgain):
    """The source gave nothing within `seconds`."""

    def __init__(self, where: str, seconds: float) -> None:
        self.where = where
        self.seconds = seconds
        super().__init__(f"{where} gave nothing within {seconds:g} s")


class SourceCut(TryAgain):
    """The connection broke at byte `offset`, and resuming it did not help."""

    def __init__(self, where: str, offset: int, why: str) -> None:
        self.where = where
        self.offset = offset
        super().__init__(f"{where} was cut at byte {offset}: {why}")


class RangesIgnored(TryAgain):
    """Asked for a range, the source gives the blob from its beginning, as HTTP allows (RFC 9110, 14.2).

    Nothing was read; it can be asked for the whole blob instead.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(f"{where} ignores ranges")


class StoreFailed(TryAgain):
    """The metainfo could not be kept: a full disk, a bucket out of reach."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        super().__init__(f"metainfo store {where} failed: {why}")


class Interrupted(LayerError):
    """The brewer was told to stop: the layer goes back to the queue as it was."""

    verdict = "give back"

    def __init__(self) -> None:
        super().__init__("interrupted")


class RegistryError(DockerTorrentsError):
    """The registry did not give what was asked of it."""

    verdict: ClassVar[Verdict] = "try again"


class RegistryUnavailable(RegistryError):
    """The registry cannot be reached, or answers 5xx or 429.

    `retry_after` is for how many seconds it asks to be left alone, None where it does not say.
    """

    def __init__(self, where: str, why: str, retry_after: float | None = None) -> None:
        self.where = where
        self.retry_after = retry_after
        super().__init__(f"registry {where} is unavailable: {why}")


class RegistryTimeout(RegistryError):
    """The registry did not answer within `seconds`."""

    def __init__(self, where: str, seconds: float) -> None:
        self.where = where
        self.seconds = seconds
        super().__init__(f"registry {where} gave no answer within {seconds:g} s")


class RegistryRefused(RegistryError):
    """The registry wants other credentials (`status` 401 or 403), or does not allow the call (405)."""

    verdict = "set aside"

    def __init__(self, where: str, status: int, why: str) -> None:
        self.where = where
        self.status = status
        super().__init__(f"registry {where} refuses ({status}): {why}")


class NotInRegistry(RegistryError):
    """The registry does not have that repository, tag or manifest (404)."""

    verdict = "set aside"

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(f"registry has no {where}")


class RegistryNonsense(RegistryError):
    """The registry answered something that its API does not allow: HTML, a body too long, a loop."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        super().__init__(f"registry {where} answers nonsense: {why}")


class ManifestInvalid(RegistryError):
    """A manifest that contradicts its specification, or itself: nothing in it is trusted."""

    verdict = "set aside"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"invalid manifest: {why}")


class MetainfoMissing(DockerTorrentsError):
    """The store has no metainfo for this layer."""

    verdict = "try again"

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"no metainfo for {digest}")


class PublishFailed(DockerTorrentsError):
    """The file that a tracker reads its whitelist from could not be written."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.why = why
        super().__init__(f"{where} cannot be written: {why}")


class CapabilityInvalid(DockerTorrentsError):
    """This capability does not open this layer, or does so no longer. `why` never holds the capability."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the capability is {why}")


class EventsMalformed(DockerTorrentsError):
    """A body that is no envelope of events, as a whole."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"not an envelope of events: {why}")


class SwarmMessageInvalid(DockerTorrentsError):
    """A request or an answer of the swarm call that is not JSON, too long, or breaks a rule."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"invalid swarm message: {why}")
