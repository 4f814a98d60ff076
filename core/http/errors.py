"""The ways in which an HTTP exchange fails, whatever was asked for.

HttpError
├── HttpTimeout, HttpUnreachable, HttpCut
└── HttpNonsense

Who asked turns them into an error of its own: RegistryTimeout, SourceCut and so on (core/errors.py).
"""

from __future__ import annotations

from typing import ClassVar

from core.errors import DockerTorrentsError, Verdict


class HttpError(DockerTorrentsError):
    """An HTTP exchange failed. `where` is the URL without its query and without user information."""

    verdict: ClassVar[Verdict] = "try again"

    def __init__(self, where: str, message: str) -> None:
        self.where = where
        super().__init__(f"{where} {message}")


class HttpTimeout(HttpError):
    """No connection, no answer, or not enough of it, within `seconds`."""

    def __init__(self, where: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(where, f"gave too little within {seconds:g} s")


class HttpUnreachable(HttpError):
    """No connection: refused, no such host, a certificate that is not trusted."""

    def __init__(self, where: str, why: str) -> None:
        self.why = why
        super().__init__(where, f"cannot be reached: {why}")


class HttpCut(HttpError):
    """The connection broke after `received` bytes of the body, before its end."""

    def __init__(self, where: str, received: int, why: str) -> None:
        self.received = received
        self.why = why
        super().__init__(where, f"was cut after {received} bytes: {why}")


class HttpNonsense(HttpError):
    """An answer that HTTP does not allow, or no client should take: a redirect loop, an endless body."""

    def __init__(self, where: str, why: str) -> None:
        self.why = why
        super().__init__(where, f"answers nonsense: {why}")
