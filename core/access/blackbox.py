"""Blackbox's verdict on the caller's OAuth token, before the registry's.

The protocol is that of Blackbox's public client (ytsaurus, yt/yt/library/auth_server): `method=oauth`, with
verdicts and exceptions alike as JSON with HTTP 200. Anything but a clear yes denies access.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode

from cachetools import TTLCache

from core.access.registry import RegistryAccess
from core.config.config import Blackbox
from core.digest import Digest
from core.errors import AccessDenied, NoVerdict, RemoteError
from core.http.client import HttpClient
from core.http.url import parse_url
from core.logs import OutageLog

log = logging.getLogger(__name__)

ANSWER_LIMIT = 64 * 1024
MAX_VERDICTS = 100_000
VALID = 0
"""`status.id` of a valid token; 1 to 5 are the reasons why one is invalid."""

_EXCEPTIONS = {
    2: "bad parameters: check blackbox.scopes",
    9: "its database does not answer, try again later",
    10: "its database does not answer, try again later",
    21: "access denied for this host: add it in Blackbox",
}
# Exceptions after which the same question may be answered.
_ASK_AGAIN = (9, 10)
_TRIES = 2
_AUTHORIZATION = re.compile(r"(?:OAuth|Bearer) +([A-Za-z0-9._~+/=-]{1,8192}) *\Z", re.IGNORECASE)


class BlackboxAccess:
    """`application.authorization: blackbox`. `clock` returns monotonic seconds; `http` has Blackbox's
    time-outs.
    """

    def __init__(
        self, settings: Blackbox, http: HttpClient, registry: RegistryAccess, clock: Callable[[], float]
    ) -> None:
        self._url_template = settings.url_template
        self._scopes = frozenset(re.split(r"[\s,]+", settings.scopes.strip(", ")))
        self._scopes_text = settings.scopes
        self._http = http
        self._registry = registry
        self._verdicts = GoodVerdicts(settings.verdict_ttl, clock)
        self._outage = OutageLog(log, "Blackbox")

    def admit(self, headers: Mapping[str, str]) -> None:
        """See Access: 400 without the caller's address, 401 without a valid token, 403 without the scope,
        503 without a verdict. A positive verdict is cached for `verdict_ttl`.
        """
        address = _address(headers.get("X-Real-IP"))
        token = self._token(headers.get("Authorization"))
        if self._verdicts.holds(token, address):
            return
        try:
            status, held = self._ask(token, address)
        except NoVerdict as error:
            self._outage.failed(error.why)
            raise _unavailable() from None
        self._outage.succeeded()
        self._check_verdict(status, held)
        self._verdicts.keep(token, address)

    def may_pull(self, scope: str, digest: Digest, authorization: str | None) -> None:
        """See Access: the registry decides about admitted callers."""
        self._registry.may_pull(scope, digest, authorization)

    def check(self) -> str:
        """Check that Blackbox answers and refuses an invalid token, and return a line for the operator.

        Raises NoVerdict if it does not answer, or accepts an invalid token.
        """
        status, _ = self._ask(secrets.token_hex(16), "127.0.0.1")
        if status == VALID:
            raise NoVerdict("it accepts an invalid token")
        return f"{parse_url(self._url_template.format(payload=''))} answers, and refuses an invalid token"

    def _token(self, authorization: str | None) -> str:
        found = _AUTHORIZATION.match(authorization or "")
        if found is None:
            raise self._unauthorized("an OAuth token is required: Authorization: OAuth <token>")
        return found[1]

    def _ask(self, token: str, address: str) -> tuple[int, frozenset[str]]:
        """Return Blackbox's verdict: `status.id`, and the scopes of the token. Raises NoVerdict."""
        query = {
            "method": "oauth",
            "oauth_token": token,
            "userip": address,
            "scopes": self._scopes_text,
            "format": "json",
        }
        url = self._url_template.format(payload=urlencode(query))
        for _ in range(_TRIES):
            answer = self._fetch(url)
            exception = answer.get("exception")
            if exception is None:
                return _verdict(answer)
            code = exception.get("id") if isinstance(exception, dict) else None
            number = code if type(code) is int else -1
            if number not in _ASK_AGAIN:
                break
        raise NoVerdict(f"exception {number}, {_EXCEPTIONS.get(number, 'which is not documented')}")

    def _fetch(self, url: str) -> dict[str, Any]:
        try:
            answer = self._http.fetch("GET", url, limit=ANSWER_LIMIT, follow=False)
        except RemoteError as error:
            # Its text does not show the query, which has the token.
            raise NoVerdict(str(error)) from None
        try:
            verdict = json.loads(answer.body) if answer.status == 200 else None
        except (ValueError, RecursionError):
            verdict = None
        if not isinstance(verdict, dict):
            raise NoVerdict(f"HTTP status {answer.status} without its JSON: check blackbox.url_template")
        return verdict

    def _check_verdict(self, status: int, held: frozenset[str]) -> None:
        """Raise AccessDenied unless the verdict is positive."""
        if status != VALID:
            log.info("token refused status=%d", status)
            raise self._unauthorized("the token is not valid")
        if not self._scopes <= held:
            log.info("token refused reason=%s", "the scope is missing")
            raise AccessDenied(403, (), "DENIED", f"the token lacks the scope {self._scopes_text}")

    def _unauthorized(self, message: str) -> AccessDenied:
        challenge = f'OAuth realm="docker-registry-torrents", scope="{self._scopes_text}"'
        return AccessDenied(401, (("WWW-Authenticate", challenge),), "UNAUTHORIZED", message)


def _verdict(answer: dict[str, Any]) -> tuple[int, frozenset[str]]:
    status, oauth = answer.get("status"), answer.get("oauth")
    number = status.get("id") if isinstance(status, dict) else None
    if type(number) is not int:
        raise NoVerdict("its answer has no status.id")
    held = oauth.get("scope") if isinstance(oauth, dict) else None
    return number, frozenset(held.split() if isinstance(held, str) else ())


def _address(text: str | None) -> str:
    if not text:
        raise AccessDenied(
            400, (), "HEADER_INVALID", "the header X-Real-IP is required: the proxy in front has to set it"
        )
    try:
        return str(ip_address(text.strip()))
    except ValueError:
        raise AccessDenied(400, (), "HEADER_INVALID", "X-Real-IP is not an IP address") from None


def _unavailable() -> AccessDenied:
    return AccessDenied(
        503, (("Retry-After", "1"),), "UNAVAILABLE", "Blackbox does not answer, access cannot be checked now"
    )


class GoodVerdicts:
    """A cache of callers with access, for `lifetime` seconds (0: disabled).

    A caller is stored as a keyed hash of token and address; the key exists only in this object. `clock`
    returns monotonic seconds. Beyond `limit` callers the oldest verdict is evicted.
    """

    def __init__(self, lifetime: float, clock: Callable[[], float], limit: int = MAX_VERDICTS) -> None:
        self._key = secrets.token_bytes(32)
        self._good: TTLCache[bytes, bool] = TTLCache(limit, lifetime, clock)
        self._lock = threading.Lock()

    def holds(self, token: str, address: str) -> bool:
        """Return whether this caller was admitted recently."""
        with self._lock:
            return self._hash(token, address) in self._good

    def keep(self, token: str, address: str) -> None:
        """Record that this caller was admitted now."""
        with self._lock:
            self._good[self._hash(token, address)] = True

    def _hash(self, token: str, address: str) -> bytes:
        # A token contains no line break, so each caller has a distinct text.
        return hmac.digest(self._key, f"{token}\n{address}".encode(), hashlib.sha256)
