"""Requests that never get to the app: no HTTP, too large, or no room. The registry's JSON tells them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask
from waitress.utilities import RequestEntityTooLarge

from web.answers import CODES, error_body

RefusesBody = Callable[[str, str, str | None], int | None]
"""Says by method, path and Authorization the status that a long body is refused with; None if it is taken."""

_BEYOND_THE_APP = {431: "HEADER_INVALID", 501: "UNSUPPORTED"}
_AGAIN_SECONDS = "5"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not served: `code` is the status (waitress.utilities.Error has it too)."""

    code: int


class RequestHead(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """A request on its way in. Its head alone tells whether a long body is taken: nothing of one that is not
    gets to the disk.

    `adj` holds the server's limits, `short` those for requests whose body `refuses_body`.
    """

    error: Any = None

    def __init__(self, adj: Any, short: Any, refuses_body: RefusesBody) -> None:
        super().__init__(adj)
        self._short = short
        self._refuses_body = refuses_body
        self._refused: int | None = None

    def parse_header(self, header_plus: bytes) -> None:
        """Called once the head is there."""
        super().parse_header(header_plus)
        if self.body_rcv is not None:
            self._refused = self._refuses_body(self.command, self.path, self.headers.get("AUTHORIZATION"))
            if self._refused is not None:
                self.adj = self._short

    def received(self, data: bytes) -> int:
        """How many bytes of `data` belong to this request."""
        taken: int = super().received(data)
        if self.error is not None:
            # Nobody is asked to go on (RFC 9110, 10.1.1).
            self.expect_continue = False
            if self._refused is not None and isinstance(self.error, RequestEntityTooLarge):
                self.error = Refusal(self._refused)
        return taken


class JsonErrorTask(ErrorTask):  # type: ignore[misc]  # waitress has no types
    """What a connection answers with where there is no request for the app; the connection then ends.

    What waitress says of it in text may quote the request, and so a token: it is left out.
    """

    def execute(self) -> None:
        """Called by the connection's `service`."""
        status = HTTPStatus(self.request.error.code)
        code = _BEYOND_THE_APP.get(status) or CODES.get(status, "UNKNOWN")
        body = error_body(code, f"the server refuses the request: {status.phrase}")
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.append(("Content-Type", "application/json; charset=utf-8"))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.response_headers.append(("Retry-After", _AGAIN_SECONDS))
        self.set_close_on_finish()
        self.content_length = len(body)
        # Of a request that could not be read there is no method.
        self.write(b"" if getattr(self.request, "command", None) == "HEAD" else body)
