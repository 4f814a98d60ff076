"""A stand-in for Blackbox: `method=oauth` of its public protocol, over real sockets.

The protocol is the one that its public client speaks (ytsaurus, yt/yt/library/auth_server): verdicts and
exceptions alike come with HTTP 200 and JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from tests.servers.http_server import Answer, Connection, HttpServer, Request, start_http_server

PATH = "/blackbox"


class Status(IntEnum):
    """`status.id` of a verdict."""

    VALID = 0
    NEED_RESET = 1
    EXPIRED = 2
    NOAUTH = 3
    DISABLED = 4
    INVALID = 5


class Fault(IntEnum):
    """`exception.id`, in place of a verdict."""

    INVALID_PARAMS = 2
    DB_FETCHFAILED = 9
    DB_EXCEPTION = 10
    ACCESS_DENIED = 21


@dataclass
class Account:
    """The user of a token, its scopes, and the address from which it is valid (None: any)."""

    login: str
    scopes: str = "registry:use"
    status: Status = Status.VALID
    address: str | None = None


@dataclass
class Blackbox:
    """A running Blackbox. `accounts` are by token; it can be changed at any time."""

    server: HttpServer
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def url_template(self) -> str:
        """The setting `blackbox.url_template`."""
        return f"{self.server.url}{PATH}?{{payload}}"

    @property
    def questions(self) -> list[dict[str, str]]:
        """The parameters of every request so far."""
        return [{name: values[0] for name, values in asked.query.items()} for asked in self.server.requests]

    def answer(self, answer: Answer) -> None:
        """Give this answer to every request from now on."""
        self.server.on(PATH, answer)

    def judge(self) -> None:
        """Answer by `accounts` from now on, as at the start."""
        self.server.on(PATH, self._judge)

    def _judge(self, request: Request, connection: Connection) -> None:
        asked = {name: values[0] for name, values in request.query.items()}
        if asked.get("method") != "oauth" or not asked.get("userip") or not asked.get("oauth_token"):
            reply_fault(Fault.INVALID_PARAMS)(request, connection)
            return
        account = self.accounts.get(asked["oauth_token"])
        if account is None or account.address not in (None, asked["userip"]):
            verdict = {"status": {"value": "INVALID", "id": Status.INVALID}, "error": "expired_token"}
        else:
            verdict = {
                "oauth": {"uid": "1120000000000001", "token_id": "1", "scope": account.scopes},
                "uid": {"value": "1120000000000001", "lite": False, "hosted": False},
                "login": account.login,
                "status": {"value": account.status.name, "id": account.status},
                "error": "OK" if account.status is Status.VALID else "account is not valid",
            }
        _reply_json(connection, verdict)


def reply_fault(fault: Fault) -> Answer:
    """Return an answer with an exception of Blackbox, with HTTP 200."""

    def answer(request: Request, connection: Connection) -> None:
        body = {"exception": {"value": fault.name, "id": fault}, "error": f"BlackBox error: {fault.name}"}
        _reply_json(connection, body)

    return answer


def _reply_json(connection: Connection, answer: object) -> None:
    connection.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


@contextmanager
def start_blackbox() -> Iterator[Blackbox]:
    """Run a Blackbox without accounts."""
    with start_http_server() as server:
        blackbox = Blackbox(server)
        blackbox.judge()
        yield blackbox
