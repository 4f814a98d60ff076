"""Requests that are no HTTP, or too large to be read: the server refuses them in the registry's JSON too."""

from __future__ import annotations

from http import HTTPStatus

from waitress.task import ErrorTask

from web.answers import CODES, error_body

_BEYOND_THE_APP = {431: "HEADER_INVALID", 501: "UNSUPPORTED"}


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
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
