"""Blackbox as the authority: it admits callers, and without its verdict no caller is admitted."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.access.access import choose_access
from core.access.blackbox import BlackboxAccess
from core.access.registry import RegistryAccess
from core.config.config import Blackbox as Settings
from core.config.config import Config, DockerRegistry
from core.errors import AccessDenied
from core.http.client import HttpClient
from core.registry.client import RegistryClient
from jobs.service import Service
from tests.clock import Clock
from tests.servers.bad_http import hanging_up, html, redirecting, replying, sending, silent
from tests.servers.blackbox import Account, Blackbox, Fault, Status, reply_fault, start_blackbox
from tests.servers.http_server import Answer, start_http_server
from tests.web_server import front_of

TOKEN = "AQAD-throw_away~token.1+2/3="
ADDRESS = "192.0.2.7"
HEADERS = {"X-Real-IP": ADDRESS, "Authorization": f"OAuth {TOKEN}"}


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def blackbox() -> Iterator[Blackbox]:
    with start_blackbox() as server:
        server.accounts[TOKEN] = Account("reader", scopes="login:email registry:use")
        yield server


def settings(blackbox: Blackbox, **more: object) -> Settings:
    return Settings.model_validate({"url_template": blackbox.url_template, "read_timeout": 60.0, **more})


@pytest.fixture
def read_timeout() -> float:
    """The time-out of `access`; tests of silence have a parameter of this name."""
    return 60.0


@pytest.fixture
def access(blackbox: Blackbox, clock: Clock, read_timeout: float) -> Iterator[BlackboxAccess]:
    with HttpClient(1.0, read_timeout) as http:
        yield access_of(settings(blackbox), http, clock)


def access_of(chosen: Settings, http: HttpClient, clock: Clock) -> BlackboxAccess:
    registry = RegistryAccess(RegistryClient(DockerRegistry(host="127.0.0.1:1", proto="http"), http))
    return BlackboxAccess(chosen, http, registry, clock)


def refused(access: BlackboxAccess, **headers: str | None) -> AccessDenied:
    """Return why a request with these headers, merged with valid ones, is refused; None removes one."""
    sent = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    with pytest.raises(AccessDenied) as raised:
        access.admit({name: value for name, value in sent.items() if value is not None})
    return raised.value


@pytest.mark.parametrize("kind", ["OAuth", "Bearer", "oauth", "BEARER"])
def test_a_valid_token_with_the_scope_gets_in(blackbox: Blackbox, access: BlackboxAccess, kind: str) -> None:
    access.admit({**HEADERS, "Authorization": f"{kind} {TOKEN}"})
    question = {
        "method": "oauth",
        "oauth_token": TOKEN,
        "userip": ADDRESS,
        "scopes": "registry:use",
        "format": "json",
    }
    assert blackbox.questions == [question]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.VALID])
def test_a_token_that_is_not_valid_is_401(blackbox: Blackbox, access: BlackboxAccess, status: Status) -> None:
    blackbox.accounts[TOKEN].status = status
    denied = refused(access)
    assert (denied.status, denied.code) == (401, "UNAUTHORIZED")
    assert dict(denied.headers)["WWW-Authenticate"].startswith("OAuth ")


def test_an_unknown_token_is_401(access: BlackboxAccess) -> None:
    assert refused(access, Authorization="OAuth another").status == 401


def test_a_token_of_another_address_is_401(blackbox: Blackbox, access: BlackboxAccess) -> None:
    blackbox.accounts[TOKEN].address = "198.51.100.1"
    assert refused(access).status == 401


@pytest.mark.parametrize("scopes", ["", "login:email", "registry:used", "registry", "REGISTRY:USE"])
def test_a_valid_token_without_the_scope_is_403(
    blackbox: Blackbox, access: BlackboxAccess, scopes: str
) -> None:
    blackbox.accounts[TOKEN].scopes = scopes
    assert (refused(access).status, refused(access).code) == (403, "DENIED")


@pytest.mark.parametrize("configured", ["registry:use registry:pull", "registry:use,registry:pull"])
def test_all_configured_scopes_are_required(blackbox: Blackbox, clock: Clock, configured: str) -> None:
    with HttpClient(1.0, 60.0) as http:
        access = access_of(settings(blackbox, scopes=configured), http, clock)
        assert refused(access).status == 403
        blackbox.accounts[TOKEN].scopes = "registry:pull other registry:use"
        access.admit(HEADERS)


@pytest.mark.parametrize(
    "address", [None, "", "example.com", "192.0.2.7, 198.51.100.1", "1.2.3", "1.2.3.4&a=b"]
)
def test_a_missing_address_is_400_without_a_request(
    blackbox: Blackbox, access: BlackboxAccess, address: str | None
) -> None:
    assert refused(access, X_Real_IP=address).status == 400
    assert blackbox.questions == []


@pytest.mark.parametrize("address", ["2001:db8::7", "::ffff:192.0.2.7", " 192.0.2.7 "])
def test_ipv4_and_ipv6_addresses_are_accepted(access: BlackboxAccess, address: str) -> None:
    access.admit({**HEADERS, "X-Real-IP": address})


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        TOKEN,
        "Basic c29tZWJvZHk6cGFzc3dvcmQ=",
        "OAuth",
        "OAuth ",
        "OAuth two tokens",
        f"OAuth {TOKEN}, OAuth {TOKEN}",
        "OAuth a&method=login",
        "OAuth \xe4",
        "OAuth " + "x" * 9000,
    ],
)
def test_a_missing_token_is_401_without_a_request(
    blackbox: Blackbox, access: BlackboxAccess, authorization: str | None
) -> None:
    assert refused(access, Authorization=authorization).status == 401
    assert blackbox.questions == []


@pytest.mark.parametrize("fault", list(Fault))
def test_an_exception_of_blackbox_admits_no_caller(
    blackbox: Blackbox, access: BlackboxAccess, fault: Fault
) -> None:
    blackbox.answer(reply_fault(fault))
    assert refused(access).status == 503
    tries = 2 if fault in (Fault.DB_FETCHFAILED, Fault.DB_EXCEPTION) else 1
    assert len(blackbox.questions) == tries


def verdict(**more: object) -> Answer:
    body = {"status": {"value": "VALID", "id": 0}, "oauth": {"scope": "registry:use"}, **more}
    return replying(200, json.dumps(body).encode())


@pytest.mark.parametrize(
    "answer",
    [
        html(),
        replying(200, b""),
        replying(200, b"[]"),
        replying(200, b"null"),
        replying(200, b"[" * 60_000),
        replying(200, b"{}"),
        replying(200, b"\xff\xfe"),
        verdict(status=None),
        verdict(status=0),
        verdict(status={"id": None}),
        verdict(status={"id": "0"}),
        verdict(status={"id": False}),
        verdict(status={"id": 0.0}),
        verdict(exception={"id": "2"}),
        verdict(exception=[]),
        replying(200, b'{"status": {"id": 0}' + b" " * 100_000 + b', "oauth": {"scope": "registry:use"}}'),
        replying(500, b'{"status": {"id": 0}, "oauth": {"scope": "registry:use"}}'),
        redirecting("/blackbox2"),
        hanging_up(),
        hanging_up(reset=True),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b'{"status": {"id": 0}}'),
        sending(b"\x16\x03\x01 not http at all\r\n\r\n"),
    ],
)
def test_without_a_clear_verdict_no_caller_is_admitted(
    blackbox: Blackbox, access: BlackboxAccess, answer: Answer
) -> None:
    blackbox.answer(answer)
    denied = refused(access)
    assert (denied.status, denied.code) == (503, "UNAVAILABLE")
    assert dict(denied.headers)["Retry-After"]


@pytest.mark.parametrize("read_timeout", [2.0])
def test_without_an_answer_no_caller_is_admitted(blackbox: Blackbox, access: BlackboxAccess) -> None:
    blackbox.answer(silent())
    assert (refused(access).status, refused(access).code) == (503, "UNAVAILABLE")


@pytest.mark.parametrize(
    "oauth", [None, [], "registry:use", {"scope": ["registry:use"]}, {"scope": None}, {}]
)
def test_a_verdict_without_scopes_admits_no_caller(
    blackbox: Blackbox, access: BlackboxAccess, oauth: object
) -> None:
    blackbox.answer(verdict(oauth=oauth))
    assert refused(access).status == 403


def test_with_blackbox_down_no_caller_is_admitted_and_it_is_logged_once(
    blackbox: Blackbox, access: BlackboxAccess, caplog: pytest.LogCaptureFixture
) -> None:
    blackbox.server.close()
    for _ in range(2):
        assert refused(access).status == 503
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Blackbox failed reason=")


def test_a_positive_verdict_is_cached_for_its_time(blackbox: Blackbox, clock: Clock) -> None:
    with HttpClient(1.0, 60.0) as http:
        access = access_of(settings(blackbox, verdict_ttl=30), http, clock)
        access.admit(HEADERS)
        blackbox.accounts.clear()
        clock.now += 29.9
        access.admit(HEADERS)
        assert len(blackbox.questions) == 1
        clock.now += 0.2
        assert refused(access).status == 401


def test_a_verdict_is_for_one_token_from_one_address(blackbox: Blackbox, access: BlackboxAccess) -> None:
    access.admit(HEADERS)
    access.admit({**HEADERS, "X-Real-IP": "192.0.2.8"})
    assert len(blackbox.questions) == 2
    assert refused(access, Authorization="OAuth another").status == 401


def test_a_time_of_zero_disables_the_cache(blackbox: Blackbox, clock: Clock) -> None:
    with HttpClient(1.0, 60.0) as http:
        access = access_of(settings(blackbox, verdict_ttl=0), http, clock)
        for _ in range(3):
            access.admit(HEADERS)
    assert len(blackbox.questions) == 3


def test_a_negative_verdict_is_not_cached(blackbox: Blackbox, access: BlackboxAccess) -> None:
    blackbox.accounts[TOKEN].status = Status.EXPIRED
    assert refused(access).status == 401
    blackbox.accounts[TOKEN].status = Status.VALID
    access.admit(HEADERS)


@pytest.mark.parametrize("read_timeout", [2.0])
def test_logs_and_errors_do_not_contain_the_token(
    blackbox: Blackbox, access: BlackboxAccess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    denied = [refused(access, Authorization=f"OAuth {TOKEN}x")]
    for answer in (silent(), html(500), reply_fault(Fault.DB_EXCEPTION), hanging_up()):
        blackbox.answer(answer)
        denied.append(refused(access))
    blackbox.server.close()
    denied.append(refused(access))
    shown = caplog.text + "".join(f"{one} {one.headers} {one.message}" for one in denied)
    assert TOKEN not in shown
    assert "blackbox" in caplog.text


def test_the_registry_gets_the_header_of_an_admitted_caller(blackbox: Blackbox, tmp_path: Path) -> None:
    box = {"url_template": blackbox.url_template, "read_timeout": 60}
    with (
        start_http_server() as registry,
        front_of(registry.netloc, tmp_path, settings={"blackbox": box}) as front,
    ):
        registry.on("/v2/a/manifests/b", replying(200, b"{}", {"Content-Type": "application/json"}))
        good = {"X_Real_IP": ADDRESS, "Authorization": f"OAuth {TOKEN}"}
        assert front.get("/v2/a/manifests/b", **{**good, "Authorization": "OAuth bad"}).status == 401
        assert front.get("/v2/a/manifests/b", Authorization=f"OAuth {TOKEN}").status == 400
        assert front.head("/v2/a/manifests/b").status == 400
        assert registry.requests == []
        assert front.get("/v2/a/manifests/b", **good).status == 200
        assert registry.requests[-1].headers["Authorization"] == f"OAuth {TOKEN}"
        blackbox.server.close()
        other = {**good, "Authorization": "OAuth other"}
        answer = front.get("/v2/a/manifests/b", **other)
        assert answer.status == 503
        assert json.loads(answer.body)["errors"][0]["code"] == "UNAVAILABLE"


def test_a_clock_that_is_set_back_does_not_extend_a_verdict(
    blackbox: Blackbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + passed[0])
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0 - 10 * passed[0])
    config = Config.model_validate(
        {
            "docker_registry": {"host": "127.0.0.1:1"},
            "application": {"state_dir": str(tmp_path)},
            "blackbox": {"url_template": blackbox.url_template, "verdict_ttl": 60, "read_timeout": 60.0},
        }
    )
    access = choose_access(config, Service(config).registry, time.monotonic)
    access.admit(HEADERS)
    passed[0] = 59.0
    access.admit(HEADERS)
    assert len(blackbox.questions) == 1
    passed[0] = 61.0
    access.admit(HEADERS)
    assert len(blackbox.questions) == 2
