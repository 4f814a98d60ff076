"""`-d` logs each request without its secrets."""

from __future__ import annotations

import logging

import pytest

from core.errors import RemoteError
from core.http.client import HttpClient
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.process import free_port


def test_a_request_is_logged_with_its_status_and_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="core.http.client")
    with start_http_server() as server, HttpClient(1.0, 20.0) as http:
        server.on("/v2/", replying(401))
        http.fetch("GET", f"{server.url}/v2/?token=hush-hush", headers={"Authorization": "Bearer hush-hush"})
        with http.open("HEAD", f"{server.url}/v2/"):
            pass

    get, head = caplog.messages
    assert get.startswith("answer method=GET status=401 ms=")
    assert get.endswith(f" url={server.url}/v2/")
    assert head.startswith("answer method=HEAD status=401 ms=")
    assert "hush-hush" not in caplog.text


def test_a_request_without_an_answer_is_logged_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="core.http.client")
    with HttpClient(1.0, 20.0) as http, pytest.raises(RemoteError):
        http.fetch("GET", f"http://user:hush-hush@127.0.0.1:{free_port()}/?hush-hush")

    [line] = caplog.messages
    assert line.startswith("no answer method=GET ms=")
    assert "hush-hush" not in line
