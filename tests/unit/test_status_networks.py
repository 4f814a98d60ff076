"""Access to the pages for operators."""

from __future__ import annotations

from typing import Any

import bottle
import pytest

from core.config.config import Application
from tests.wsgi import call
from web.status_networks import StatusNetworks


@pytest.mark.parametrize(
    ("settings", "connection", "header", "status"),
    [
        ({}, "127.0.0.1", None, 200),
        ({}, "::1", None, 200),
        ({}, "::ffff:127.0.0.1", None, 200),
        ({}, "10.0.0.1", None, 403),
        ({}, "127.0.0.1", "10.0.0.1", 403),
        ({}, "127.0.0.1", "not an address", 403),
        ({}, "10.0.0.1", "127.0.0.1", 403),
        ({}, "", None, 403),
        ({"status_networks": ["10.0.0.0/8"]}, "10.0.0.1", None, 200),
        ({"status_networks": ["10.0.0.0/8"]}, "127.0.0.1", None, 403),
        ({"status_networks": ["10.0.0.0/8"]}, "127.0.0.1", "10.0.0.1", 200),
        ({"status_networks": []}, "127.0.0.1", None, 403),
    ],
)
def test_only_the_configured_networks_get_the_pages_for_operators(
    settings: dict[str, Any], connection: str, header: str | None, status: int
) -> None:
    app = bottle.Bottle()
    gate = StatusNetworks(Application.model_validate(settings))
    app.route("/page", "GET", lambda: "secret", apply=[gate.limit])

    headers = {"X-Real-IP": header} if header else {}
    answer = call(app, "GET", "/page", headers=headers, environ={"REMOTE_ADDR": connection})

    assert answer.status == status
    assert (answer.body == b"secret") == (status == 200)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_a_local_proxy_without_x_real_ip_is_not_mistaken_for_the_caller(header: str) -> None:
    gate = StatusNetworks(Application())
    app = bottle.Bottle()
    app.route("/page", "GET", lambda: "secret", apply=[gate.limit])

    def status(headers: dict[str, str]) -> int:
        return call(app, "GET", "/page", headers=headers, environ={"REMOTE_ADDR": "127.0.0.1"}).status

    assert status({header: "203.0.113.9"}) == 403
    assert status({header: "127.0.0.1", "X-Real-IP": "127.0.0.1"}) == 200
