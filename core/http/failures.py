"""Translate errors of requests and urllib3 into RemoteError."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from requests.exceptions import RequestException
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from core.errors import BadAnswer, ConnectionCut, RemoteError, TimedOut, Unavailable
from core.http.url import Target

FAILURES = (RequestException, HTTPError, OSError, ValueError)
"""Everything that sending a request and reading its answer may raise."""

SPEAKS_TLS = "the port speaks TLS: set proto: https, or an https:// URL"
_MAX_WHY = 200
_HANG_UPS = (ConnectionResetError, BrokenPipeError)
"""http.client's RemoteDisconnected is one of the first."""


def is_hang_up(error: Exception) -> bool:
    """Return whether the server closed the connection before it answered."""
    return any(isinstance(cause, _HANG_UPS) for cause in _causes(error))


def as_remote_error(
    error: Exception, target: Target, connect_timeout: float, read_timeout: float
) -> RemoteError:
    """Return the error for a request that got no answer.

    Messages of libraries are passed on only where they cannot contain a header or a query.
    """
    where = str(target)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, NameResolutionError):
            return Unavailable(where, "the host name cannot be resolved")
        if isinstance(cause, NewConnectionError):
            return Unavailable(where, f"cannot connect: {_text(cause.__cause__ or 'no connection')}")
        if isinstance(cause, ConnectTimeoutError):
            return TimedOut(where, connect_timeout)
        if isinstance(cause, (ReadTimeoutError, TimeoutError)):
            return TimedOut(where, read_timeout)
        if isinstance(cause, ssl.SSLError):
            return Unavailable(where, _of_tls(cause))
    cause = causes[-1]
    if "\\x15\\x03" in repr(cause) or "\x15\x03" in str(cause):
        # The first bytes of a TLS alert instead of a status line.
        return Unavailable(where, SPEAKS_TLS)
    if isinstance(cause, OSError) and not isinstance(cause, RequestException):
        if any(isinstance(one, ProtocolError) for one in causes):
            return ConnectionCut(where, 0, _text(cause))
        return Unavailable(where, _text(cause))
    if any(isinstance(one, ProtocolError) for one in causes):
        return BadAnswer(where, f"{type(cause).__name__}: {_text(cause)}")
    # The libraries show the header or the URL that they refuse, which may hold a credential.
    return BadAnswer(where, "the request cannot be sent as HTTP")


def as_body_error(error: Exception, where: str, seconds: float, received: int) -> RemoteError:
    """Return the error for a body that failed after `received` bytes."""
    causes = list(_causes(error))
    if any(isinstance(cause, (ReadTimeoutError, TimeoutError)) for cause in causes):
        return TimedOut(where, seconds)
    cause = causes[-1]
    if "IncompleteRead" in type(cause).__name__:
        return ConnectionCut(where, received, "the body is shorter than announced")
    return ConnectionCut(where, received, _text(cause))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, down to the first one."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inside = [getattr(current, "reason", None), *current.args]
        current = next((one for one in inside if isinstance(one, BaseException)), None)


_UNKNOWN_AUTHORITY = "put its authority into the system's store or into tls.ca_file"
_WRONG_NAME = "use a name that it lists"
_TLS_REMEDIES = {
    # X509_V_ERR_… of OpenSSL's x509_vfy.h: not yet valid, expired, another host, another address.
    9: "is the clock of this machine right?",
    10: "the server has to renew it",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}


def tls_problem(error: BaseException) -> str:
    """Return why TLS failed, with the remedy, from an error of requests or urllib3."""
    return next((_of_tls(cause) for cause in _causes(error) if isinstance(cause, ssl.SSLError)), _text(error))


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _TLS_REMEDIES.get(error.verify_code, _UNKNOWN_AUTHORITY)
        return f"TLS certificate not trusted ({error.verify_message.rstrip('.')}): {remedy}"
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return "the port does not speak TLS: set proto: http, or an http:// URL"
    return f"TLS: {_text(error)}"


def _text(error: object) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    shown = "".join(character if character.isprintable() else "?" for character in text[: _MAX_WHY + 1])
    return shown if len(shown) <= _MAX_WHY else shown[: _MAX_WHY - 3] + "..."
