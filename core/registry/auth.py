"""Credentials for a registry: Basic, and Bearer tokens (docker/distribution, docs/spec/auth/token.md).

The password goes to the registry and to the token server that the registry names, on any host: public
registries have separate hosts for theirs. It is never sent to a token server at plain http when the registry
itself is at https: then a forged challenge would be enough to read it.
"""

from __future__ import annotations

import base64
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from cachetools import LRUCache

from core.errors import BadAnswer, Refused, RemoteError
from core.http.client import HttpAnswer, HttpClient
from core.http.url import Origin, Target, parse_url
from core.registry.answers import from_status, parse_date

TOKEN_LIMIT = 256 * 1024
DEFAULT_LIFETIME = 60.0
"""The validity of a token in seconds if its server does not state it (token.md)."""

BREWER_LOGIN = "set brewer.brew_user and brewer.brew_password"
"""What to do about a missing or wrong password."""

_MAX_TOKENS = 10_000
_USABLE_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


@dataclass
class _CachedToken:
    """The token for one scope at one registry. `lock` is held while a new one is being fetched."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    header: str | None = None
    good_until: float = -math.inf
    scope: str = ""
    failures: int = 0
    failure: RemoteError | None = None


class RegistryAuth:
    """Determines the authorization that a registry requires, and caches it.

    Without a user or a password, tokens are requested anonymously. `remedy` says where they are set.
    `clock` returns monotonic seconds.
    Thread-safe: one thread fetches a token, the others wait for it.
    """

    def __init__(
        self,
        http: HttpClient,
        user: str | None = None,
        password: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        remedy: str = BREWER_LOGIN,
    ) -> None:
        self._http = http
        self._user = user
        self._remedy = remedy
        self._clock = clock
        self._basic = _basic(user, password) if user and password is not None else None
        self._lock = threading.Lock()
        self._challenges: dict[Origin, Challenge] = {}
        self._tokens: LRUCache[tuple[Origin, str], _CachedToken] = LRUCache(_MAX_TOKENS)

    def header(self, target: Target, scope: str) -> str | None:
        """Return the Authorization for `target`, None if the registry has not required one yet.

        `scope` is that of a token, such as `repository:library/ubuntu:pull`. Raises RemoteError if a
        required token cannot be fetched.
        """
        challenge = self._challenges.get(target.origin)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._basic
        try:
            return self._bearer(challenge, target, self._cached(target.origin, scope), None)
        except RemoteError:
            # Next time without it first: the registry may have a different token server, or none.
            self._challenges.pop(target.origin, None)
            raise

    def answer(self, challenges: Iterable[str], target: Target, scope: str, used: str | None) -> str:
        """Return the Authorization for a retry, after a 401 of the registry with these WWW-Authenticate
        lines.

        `used` is the one sent before. A token that another thread has renewed is returned without another
        request. Raises Refused if no challenge can be answered.
        """
        offered = parse_challenges(challenges)
        by_scheme = {challenge.scheme: challenge for challenge in reversed(offered)}
        bearer, basic = by_scheme.get("bearer"), by_scheme.get("basic")
        if bearer is not None and "realm" in bearer.parameters:
            self._challenges[target.origin] = bearer
            cached = self._cached(target.origin, scope)
            cached.scope = bearer.parameters.get("scope", scope)
            return self._bearer(bearer, target, cached, used)
        if basic is None:
            schemes = ", ".join(challenge.scheme for challenge in offered) or "none"
            why = f"it offers {schemes[:100]}, but only Basic and Bearer authentication are supported"
            raise Refused(str(target), 401, why)
        if self._basic is None:
            raise Refused(str(target), 401, f"it requires a user and a password: {self._remedy}")
        if used == self._basic:
            raise self.refused(target, used)
        self._challenges[target.origin] = basic
        return self._basic

    def refused(self, target: Target, used: str | None) -> Refused:
        """Return the error for a 401 to the Authorization from `answer`."""
        if self._basic is not None and used == self._basic:
            return Refused(str(target), 401, f"wrong password for user {self._user}: {self._remedy}")
        if self._basic is None:
            why = f"its token server does not let anonymous callers do this: {self._remedy}"
        else:
            why = f"its token server does not let {self._user} do this"
        return Refused(str(target), 401, why)

    def _cached(self, origin: Origin, scope: str) -> _CachedToken:
        with self._lock:
            cached = self._tokens.get((origin, scope))
            if cached is None:
                cached = self._tokens[origin, scope] = _CachedToken(scope=scope)
            return cached

    def _bearer(
        self, challenge: Challenge, registry: Target, cached: _CachedToken, refused: str | None
    ) -> str:
        """Return the header with a valid token other than the `refused` one."""
        failures = cached.failures
        with cached.lock:
            if cached.failure is not None and cached.failures != failures:
                # Another thread has just failed: otherwise the threads would wait for one time-out after
                # another.
                raise cached.failure.with_traceback(None)
            if cached.header is None or cached.header == refused or self._clock() >= cached.good_until:
                cached.header, cached.failure = None, None
                try:
                    requested = self._clock()
                    token, lifetime = self._fetch(challenge, registry, cached.scope)
                except RemoteError as error:
                    cached.failure = error
                    cached.failures += 1
                    raise
                cached.header = f"Bearer {token}"
                # A tenth less, so that it does not expire in transit.
                cached.good_until = requested + 0.9 * lifetime
            return cached.header

    def _fetch(self, challenge: Challenge, registry: Target, scope: str) -> tuple[str, float]:
        """Fetch a token; return it and its validity in seconds. Raises RemoteError."""
        realm = _realm(challenge, registry)
        headers = {}
        query = [("scope", one) for one in scope.split()]
        if "service" in challenge.parameters:
            query.insert(0, ("service", challenge.parameters["service"]))
        if self._basic is not None:
            if registry.scheme == "https" and realm.scheme != "https":
                why = f"its token server {realm} is at plain http, the password is not sent there"
                raise Refused(str(registry), 401, why)
            headers["Authorization"] = self._basic
            query.append(("account", str(self._user)))
        separator = "&" if "?" in realm.path else "?"
        url = f"{realm.url}{separator}{urlencode(query)}" if query else realm.url
        answer = self._http.fetch("GET", url, headers=headers, limit=TOKEN_LIMIT)
        where = f"token server {realm}"
        if answer.status != 200:
            error = from_status(answer.status, answer.headers, answer.body, where, f"token server at {realm}")
            if answer.status == 401:
                raise Refused(where, 401, f"{error.why}: {self._remedy}")
            raise error
        return _token(answer, where)


def _basic(user: str, password: str) -> str:
    """Return the header for Basic authentication, in UTF-8 (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _realm(challenge: Challenge, registry: Target) -> Target:
    try:
        return parse_url(challenge.parameters["realm"])
    except ValueError as error:
        raise BadAnswer(str(registry), f"the realm of its challenge is not a URL: {error}") from None


def _token(answer: HttpAnswer, where: str) -> tuple[str, float]:
    """Return the token in a token server's answer, and its remaining validity in seconds."""
    try:
        answered = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise BadAnswer(where, "its answer is not JSON") from None
    if not isinstance(answered, dict):
        raise BadAnswer(where, "its answer is not a JSON object")
    token = answered.get("token") or answered.get("access_token")
    if not isinstance(token, str) or not _USABLE_TOKEN.match(token):
        raise BadAnswer(where, "its answer has no token")
    lifetime = answered.get("expires_in")
    # bool is an int in Python, but true is not a number in JSON.
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 <= lifetime < 1e9:
        lifetime = DEFAULT_LIFETIME
    return token, lifetime - min(_age(answered.get("issued_at"), answer), lifetime)


def _age(issued_at: Any, answer: HttpAnswer) -> float:
    """Return the age of the token in seconds: it may come from a cache.

    By the server's clock (its Date header), as ours may differ.
    """
    now = parse_date(answer.headers.get("Date") or "")
    try:
        issued = datetime.fromisoformat(issued_at)
    except (TypeError, ValueError):
        return 0.0
    return max((now - issued).total_seconds(), 0.0) if now and issued.tzinfo else 0.0


# WWW-Authenticate (RFC 9110, 11.6.1).
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_COMMAS = re.compile(r"[ \t,]*")
_SCHEME = re.compile(rf"({_WORD})(?: +|(?=,)|\Z)")
# A quoted string: quotes and backslashes in it are escaped by a backslash.
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD})(?=[ \t,]|\Z))')
# A token68 instead of parameters.
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_ESCAPED = re.compile(r"\\(.)")
MAX_CHARACTERS = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. `scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Parse the challenges in the values of all WWW-Authenticate lines, in order.

    One line may have several: commas separate both challenges and their parameters. Parsing of a line
    stops at the first syntax error; challenges before it count.
    """
    return tuple(challenge for value in values for challenge in _line(value[:MAX_CHARACTERS]))


def _line(value: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _after_commas(value, 0)
    while position < len(value):
        scheme = _SCHEME.match(value, position)
        if scheme is None:
            break
        parameters, position = _parameters(value, scheme.end())
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def _parameters(value: str, position: int) -> tuple[dict[str, str], int]:
    """Parse parameters at `position`; return them and that of the next challenge, syntax error, or end."""
    parameters: dict[str, str] = {}
    while True:
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            token68 = None if parameters else _TOKEN68.match(value, position)
            return parameters, _after_commas(value, token68.end() if token68 else position)
        name, quoted, plain = parameter.groups()
        # The first counts: a repeated name is an error (RFC 9110, 11.2).
        parameters.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if plain is None else plain)
        position = _after_commas(value, parameter.end())


def _after_commas(value: str, position: int) -> int:
    return _COMMAS.match(value, position).end()  # type: ignore[union-attr] # it matches nothing, too
