"""HTTP requests in the log, for whoever looks for what is slow or refused: `docker_torrents -d`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from core.errors import RemoteError
from core.http.client import HttpClient
from core.http.stream import HttpStream

log = logging.getLogger(__name__)


class LoggedHttp(HttpClient):
    """An HttpClient that logs each answer at DEBUG: status, milliseconds to its head, URL without query."""

    def _open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        seconds: float,
        follow: bool,
    ) -> HttpStream:
        begun = time.monotonic()
        try:
            stream = super()._open(method, url, headers, body, seconds, follow)
        except RemoteError as error:
            log.debug("no answer method=%s ms=%.0f reason=%s", method, _since(begun), error)
            raise
        log.debug(
            "answer method=%s status=%d ms=%.0f url=%s", method, stream.status, _since(begun), stream.target
        )
        return stream


def _since(begun: float) -> float:
    return 1000 * (time.monotonic() - begun)
