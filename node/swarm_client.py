"""The swarm calls of a node: joining a layer's swarm, and announcing complete layers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from core.digest import Digest
from core.errors import (
    NO_ANSWER,
    BadAnswer,
    Refused,
    RemoteError,
    SwarmMessageInvalid,
    TimedOut,
    Unavailable,
)
from core.http.client import HttpClient
from core.logs import OutageLog
from core.swarm.messages import MAX_ANSWER, SeedsAnswer, SeedsRequest, SwarmAnswer, SwarmRequest
from node.metainfo import Metainfo

log = logging.getLogger(__name__)

_WEB_SEED = re.compile(r"(?P<base>https?://.+)/v0/layers/(?P<capability>[A-Za-z0-9_-]{1,512})/[0-9a-f]{64}")
_SECONDS = 5.0
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class SwarmAddress:
    """The address for a layer's swarm calls: the service's URL and the capability for the layer."""

    base: str
    capability: str

    @classmethod
    def of(cls, web_seeds: tuple[str, ...]) -> SwarmAddress | None:
        """Find the service among a torrent's web seeds; None if none of them is docker-torrents'."""
        for url in web_seeds:
            if found := _WEB_SEED.fullmatch(url):
                return cls(found["base"], found["capability"])
        return None

    def web_seed(self, digest: Digest) -> str:
        """Return the URL of the layer's bytes."""
        return f"{self.base}/v0/layers/{self.capability}/{digest.hex}"


def renewed(metainfo: Metainfo, address: SwarmAddress, digest: Digest) -> Metainfo:
    """Return `metainfo` with the web seed of `address` in place of docker-torrents' older one."""
    others = [url for url in metainfo.web_seeds if SwarmAddress.of((url,)) is None]
    return metainfo.with_web_seeds((address.web_seed(digest), *others))


class SwarmService:
    """Makes the swarm calls of all layers, and logs failures: an outage once for all layers. Thread-safe."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._outage = OutageLog(log, "swarm calls")

    def announce(self, base: str, request: SeedsRequest) -> SeedsAnswer:
        """Announce layers that this node has completely. Raises RemoteError."""
        return self.post(base, "/v0/swarm", request.encode(), SeedsAnswer.decode)

    def post(
        self,
        base: str,
        path: str,
        body: bytes,
        decode: Callable[[bytes], _Answer],
        digest: Digest | None = None,
    ) -> _Answer:
        """Make a call, about one layer if there is a `digest`. Raises RemoteError."""
        try:
            answer = _post(self._http, base, path, body, decode)
        except NO_ANSWER as error:
            self._outage.failed(error)
            raise
        except RemoteError as error:
            log.warning("swarm call failed digest=%s reason=%s", digest or "all", error)
            raise
        self._outage.succeeded()
        return answer


class SwarmClient:
    """A member of one layer's swarm; keeps the capability that the service renews."""

    def __init__(self, service: SwarmService, address: SwarmAddress, digest: Digest) -> None:
        self.address = address
        self._service = service
        self._digest = digest

    def call(self, request: SwarmRequest) -> SwarmAnswer:
        """Make a swarm call. Raises RemoteError."""
        path = f"/v0/swarm/{self.address.capability}/{self._digest.hex}"
        answer = self._service.post(
            self.address.base, path, request.encode(), SwarmAnswer.decode, self._digest
        )
        self.address = SwarmAddress(self.address.base, answer.capability)
        return answer


def _post(http: HttpClient, base: str, path: str, body: bytes, decode: Callable[[bytes], _Answer]) -> _Answer:
    # The path contains a capability, so errors do not show it.
    where = f"{base}/v0/swarm"
    headers = {"Content-Type": "application/json"}
    try:
        answer = http.fetch(
            "POST", base + path, headers=headers, body=body, limit=MAX_ANSWER, seconds=_SECONDS
        )
    except TimedOut:
        raise TimedOut(where, _SECONDS) from None
    except RemoteError as error:
        raise Unavailable(where, error.why or type(error).__name__) from None
    if answer.status in (404, 429, 502, 503, 504):
        raise Unavailable(where, f"status {answer.status}", answer.headers.number("Retry-After"))
    if answer.status in (401, 403):
        raise Refused(where, answer.status, "the capability is not valid")
    if answer.status != 200:
        raise BadAnswer(where, f"status {answer.status}")
    try:
        return decode(answer.body)
    except SwarmMessageInvalid as error:
        raise BadAnswer(where, str(error)) from error
