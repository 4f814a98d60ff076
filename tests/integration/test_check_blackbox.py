"""`check` sends Blackbox an invalid token, which it should refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.access.blackbox import BlackboxAccess
from core.access.registry import RegistryAccess
from core.config.config import Blackbox as Settings
from core.config.config import DockerRegistry
from core.errors import NoVerdict
from core.http.client import HttpClient
from core.registry.client import RegistryClient
from tests.servers.bad_http import hanging_up, html, replying
from tests.servers.blackbox import Blackbox, Fault, reply_fault, start_blackbox
from tests.servers.http_server import Answer


@pytest.fixture
def blackbox() -> Iterator[Blackbox]:
    with start_blackbox() as blackbox:
        yield blackbox


@pytest.fixture
def access(blackbox: Blackbox) -> Iterator[BlackboxAccess]:
    with HttpClient(5.0, 20.0) as http:
        registry = RegistryClient(DockerRegistry(host="localhost", proto="http"), http)
        settings = Settings.model_validate({"url_template": blackbox.url_template})
        yield BlackboxAccess(settings, http, RegistryAccess(registry), clock=lambda: 0.0)


def test_refusing_an_invalid_token_is_ok(blackbox: Blackbox, access: BlackboxAccess) -> None:
    result = access.check()

    assert result == f"{blackbox.server.url}/blackbox answers, and refuses an invalid token"
    [asked] = blackbox.questions
    assert asked["oauth_token"] not in result
    assert (asked["method"], asked["scopes"], asked["format"]) == ("oauth", "registry:use", "json")


def test_each_probe_uses_another_token(blackbox: Blackbox, access: BlackboxAccess) -> None:
    access.check()
    access.check()

    first, second = blackbox.questions
    assert first["oauth_token"] != second["oauth_token"]


VALID = b'{"status": {"value": "VALID", "id": 0}, "oauth": {"scope": "registry:use"}, "error": "OK"}'


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply_fault(Fault.INVALID_PARAMS), "exception 2, bad parameters: check blackbox.scopes"),
        (reply_fault(Fault.DB_EXCEPTION), "exception 10, its database does not answer"),
        (reply_fault(Fault.ACCESS_DENIED), "exception 21, access denied for this host"),
        (replying(200, b'{"exception": {"id": [21]}}'), "which is not documented"),
        (replying(200, b'{"login": "somebody"}'), "no status.id"),
        (replying(200, VALID), "it accepts an invalid token"),
        (html(500), "HTTP status 500"),
        (hanging_up(), ""),
    ],
)
def test_a_missing_verdict_is_a_failure_with_its_reason(
    blackbox: Blackbox, access: BlackboxAccess, answer: Answer, reason: str
) -> None:
    blackbox.answer(answer)

    with pytest.raises(NoVerdict) as caught:
        access.check()

    assert str(caught.value).startswith("Blackbox gives no verdict: ")
    assert reason in str(caught.value)
    assert blackbox.questions[-1]["oauth_token"] not in str(caught.value)


def test_an_outage_is_a_failure(blackbox: Blackbox, access: BlackboxAccess) -> None:
    blackbox.server.close()

    with pytest.raises(NoVerdict, match=r"refused|reached"):
        access.check()
