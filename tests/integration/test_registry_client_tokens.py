"""Hand-written token servers and challenges: valid, unusual and hostile."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Semaphore
from typing import Any

import pytest

from core.errors import BadAnswer, ConnectionCut, Refused, RemoteError, TimedOut, Unavailable
from core.http.client import HttpClient
from core.http.url import parse_url
from core.registry.auth import RegistryAuth
from tests.registry_clients import SILENCE_SECONDS, client_of
from tests.servers import bad_http
from tests.servers.http_server import Answer, Connection, HttpServer, Request, start_http_server

PASSWORD = "pass word"


class GuardedRegistry:
    """Accepts only the last issued token, and answers `challenge` otherwise."""

    def __init__(self, registry: HttpServer, realm: HttpServer) -> None:
        self.registry, self.realm = registry, realm
        self.challenge = f'Bearer realm="{realm.url}/token?own=1",service="s"'
        self.last = ""
        self.more: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        registry.on("/v2/", self._serve)
        realm.on("/token", self.give)

    def give(self, request: Request, connection: Connection) -> None:
        """Issue a token, with the fields in `more`."""
        self.last = f"token{next(self._numbers)}"
        connection.reply(200, json.dumps({"token": self.last, **self.more}).encode())

    def _serve(self, request: Request, connection: Connection) -> None:
        if self.last and request.headers.get("Authorization") == f"Bearer {self.last}":
            connection.reply(200, b"{}")
        else:
            connection.reply(401, b"{}", {"WWW-Authenticate": self.challenge})


@pytest.fixture
def guarded() -> Iterator[GuardedRegistry]:
    with start_http_server() as registry, start_http_server() as realm:
        yield GuardedRegistry(registry, realm)


class TestAToken:
    def test_is_requested_at_the_realm_with_the_challenges_parameters(self, guarded: GuardedRegistry) -> None:
        guarded.challenge += ',scope="repository:mirror/a:pull registry:catalog:*"'
        with client_of(guarded.registry.netloc, "brewer", PASSWORD) as client:
            client.ping()
        [request] = guarded.realm.requests
        assert request.query == {
            "own": ["1"],
            "service": ["s"],
            "scope": ["repository:mirror/a:pull", "registry:catalog:*"],
            "account": ["brewer"],
        }
        assert request.headers["Authorization"].startswith("Basic ")

    def test_is_requested_anonymously_without_a_user(self, guarded: GuardedRegistry) -> None:
        with client_of(guarded.registry.netloc) as client:
            client.ping()
        [request] = guarded.realm.requests
        assert "account" not in request.query
        assert "Authorization" not in request.headers

    def test_may_be_called_access_token(self, guarded: GuardedRegistry) -> None:
        def give(request: Request, connection: Connection) -> None:
            guarded.last = "other"
            connection.reply(200, b'{"access_token": "other"}')

        guarded.realm.on("/token", give)
        with client_of(guarded.registry.netloc) as client:
            client.ping()

    @pytest.mark.parametrize("lifetime", [None, 60, 3600, "soon", True, -5, 1e400, 10**400, [], {}])
    def test_is_cached_while_it_is_valid(self, guarded: GuardedRegistry, lifetime: object) -> None:
        guarded.more = {"expires_in": lifetime, "issued_at": "not a date"}
        with client_of(guarded.registry.netloc) as client:
            client.ping()
            client.ping()
        assert len(guarded.realm.requests) == 1

    def test_is_renewed_before_it_expires(self, guarded: GuardedRegistry) -> None:
        now = 1000.0
        guarded.more = {"expires_in": 100}
        target = parse_url(f"{guarded.registry.url}/v2/")
        with HttpClient(1, 20) as http:
            auth = RegistryAuth(http, clock=lambda: now)
            first = auth.answer([guarded.challenge], target, "x", None)
            now += 89
            assert auth.header(target, "x") == first
            now += 2
            assert auth.header(target, "x") == "Bearer token2"

    def test_from_an_intermediate_cache_is_kept_for_the_remaining_time(
        self, guarded: GuardedRegistry
    ) -> None:
        """By the clock of the token server, which may differ from ours."""
        issued = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
        body = {"token": "cached", "expires_in": 300, "issued_at": "2001-02-03T04:05:06.123456789Z"}
        date = format_datetime(issued + timedelta(seconds=200), usegmt=True)
        guarded.realm.on("/token", bad_http.replying(200, json.dumps(body).encode(), {"Date": date}))
        now = 0.0
        target = parse_url(f"{guarded.registry.url}/v2/")
        with HttpClient(1, 20) as http:
            auth = RegistryAuth(http, clock=lambda: now)
            auth.answer([guarded.challenge], target, "x", None)
            now = 85.0
            auth.header(target, "x")
            assert len(guarded.realm.requests) == 1
            now = 95.0
            auth.header(target, "x")
            assert len(guarded.realm.requests) == 2

    def test_that_is_no_longer_accepted_is_replaced_once(self, guarded: GuardedRegistry) -> None:
        with client_of(guarded.registry.netloc) as client:
            client.ping()
            guarded.last = "revoked"
            client.ping()
            assert len(guarded.realm.requests) == 2
            guarded.realm.on("/token", bad_http.replying(200, b'{"token": "useless"}'))
            guarded.last = "revoked"
            with pytest.raises(Refused) as caught:
                client.ping()
        assert caught.value.status == 401
        assert len(guarded.realm.requests) == 3

    def test_is_no_longer_sent_once_the_registry_is_public(self, guarded: GuardedRegistry) -> None:
        guarded.more = {"expires_in": 0}
        with client_of(guarded.registry.netloc) as client:
            client.ping()
            guarded.realm.on("/token", bad_http.replying(503))
            guarded.registry.on("/v2/", bad_http.replying(200, b"{}"))
            with pytest.raises(Unavailable):
                client.ping()
            client.ping()

    def test_is_not_requested_again_by_threads_whose_wait_failed(
        self, guarded: GuardedRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        get_token, entered = RegistryAuth._bearer, Semaphore(0)

        def enter(*arguments: Any) -> str:
            entered.release()
            return get_token(*arguments)

        def fail_once_all_wait(request: Request, connection: Connection) -> None:
            assert all(entered.acquire(timeout=60) for _ in range(8))
            connection.reply(503)

        monkeypatch.setattr(RegistryAuth, "_bearer", enter)
        guarded.realm.on("/token", fail_once_all_wait)
        failures: list[RemoteError] = []
        with client_of(guarded.registry.netloc) as client:

            def ask() -> None:
                try:
                    client.ping()
                except RemoteError as error:
                    failures.append(error)

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [type(error) for error in failures] == [Unavailable] * 8
        assert len(guarded.realm.requests) == 1


class TestATokenServer:
    @pytest.mark.parametrize(
        "answer",
        [
            bad_http.html(),
            bad_http.replying(200, b""),
            bad_http.replying(200, b"[]"),
            bad_http.replying(200, b"{}"),
            bad_http.replying(200, b'{"token": 5}'),
            bad_http.replying(200, b'{"token": ""}'),
            bad_http.replying(200, b'{"token": "a\\r\\nX-Injected: b"}'),
            bad_http.replying(200, b'{"token": "\xc3\xa4"}'),
            bad_http.replying(200, b"[" * 100_000),
            bad_http.replying(200, b'{"token": "' + b"a" * 300_000 + b'"}'),
            bad_http.endless(),
            bad_http.redirecting("/token"),
            bad_http.sending(b"SSH-2.0\r\n"),
        ],
    )
    def test_that_sends_garbage_is_reported(self, guarded: GuardedRegistry, answer: Answer) -> None:
        guarded.realm.on("/token", answer)
        with client_of(guarded.registry.netloc) as client, pytest.raises(BadAnswer):
            client.ping()

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (bad_http.replying(401), Refused),
            (bad_http.replying(403), Refused),
            (bad_http.replying(429), Unavailable),
            (bad_http.replying(503), Unavailable),
            (bad_http.hanging_up(), ConnectionCut),
            (bad_http.silent(), TimedOut),
        ],
    )
    def test_that_fails_is_logged(
        self, guarded: GuardedRegistry, answer: Answer, error: type[RemoteError]
    ) -> None:
        guarded.realm.on("/token", answer)
        seconds = SILENCE_SECONDS if error is TimedOut else 60.0
        with (
            client_of(guarded.registry.netloc, read_timeout=seconds) as client,
            pytest.raises(error) as caught,
        ):
            client.ping()
        assert guarded.realm.netloc in str(caught.value)

    def test_elsewhere_does_not_get_the_password(self, guarded: GuardedRegistry) -> None:
        with start_http_server() as elsewhere:
            elsewhere.on("/token", guarded.give)
            guarded.realm.on("/token", bad_http.redirecting(f"{elsewhere.url}/token"))
            with client_of(guarded.registry.netloc, "brewer", PASSWORD) as client:
                client.ping()
            assert "Authorization" in guarded.realm.requests[0].headers
            assert "Authorization" not in elsewhere.requests[0].headers

    def test_at_plain_http_does_not_get_the_password_of_a_registry_at_https(
        self, guarded: GuardedRegistry
    ) -> None:
        target = parse_url("https://registry.example.com/v2/")
        with HttpClient(1, 20) as http:
            with pytest.raises(Refused, match="plain http"):
                RegistryAuth(http, "brewer", PASSWORD).answer([guarded.challenge], target, "x", None)
            assert guarded.realm.requests == []
            anonymous = RegistryAuth(http).answer([guarded.challenge], target, "x", None)
        assert anonymous == "Bearer token1"


class TestAChallenge:
    @pytest.mark.parametrize(
        "challenge",
        [
            "",
            "Negotiate",
            'Digest realm="a", nonce="b"',
            "Bearer",
            'Bearer service="s"',
            'Bearer realm="open',
            "%$!",
        ],
    )
    def test_that_cannot_be_answered_is_logged(self, guarded: GuardedRegistry, challenge: str) -> None:
        guarded.challenge = challenge
        with (
            client_of(guarded.registry.netloc, "brewer", PASSWORD) as client,
            pytest.raises(Refused, match="only Basic and Bearer authentication are supported") as caught,
        ):
            client.ping()
        assert caught.value.status == 401
        assert PASSWORD not in str(caught.value)

    @pytest.mark.parametrize(
        "realm", ["", "/token", "file:///etc/passwd", "ftp://a/", "http://a b/", "http://:1"]
    )
    def test_with_an_invalid_realm_is_a_bad_answer(self, guarded: GuardedRegistry, realm: str) -> None:
        guarded.challenge = f'Bearer realm="{realm}"'
        with client_of(guarded.registry.netloc) as client, pytest.raises(BadAnswer, match="realm"):
            client.ping()

    def test_for_a_token_precedes_one_for_a_password(self, guarded: GuardedRegistry) -> None:
        guarded.challenge = f'Basic realm="a", {guarded.challenge}'
        with client_of(guarded.registry.netloc, "brewer", PASSWORD) as client:
            client.ping()
        sent = [request.headers.get("Authorization") for request in guarded.registry.requests]
        assert sent == [None, "Bearer token1"]

    def test_of_a_host_that_the_registry_redirected_to_is_not_answered(
        self, guarded: GuardedRegistry
    ) -> None:
        with start_http_server() as elsewhere:
            asking = {"WWW-Authenticate": f'Basic realm="a", {guarded.challenge}'}
            elsewhere.on("/*", bad_http.replying(401, headers=asking))
            guarded.registry.on("/v2/", bad_http.redirecting(f"{elsewhere.url}/v2/"))
            with (
                client_of(guarded.registry.netloc, "brewer", PASSWORD) as client,
                pytest.raises(Unavailable, match="storage answers 401"),
            ):
                client.ping()
            assert [request.headers.get("Authorization") for request in elsewhere.requests] == [None]
        assert guarded.realm.requests == []
