"""Whatever hangs behind the app, a database, a source or the registry: all that does not need it is served."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import requests

import web.granted_roles
import web.known_ids
from sql.engine import create_engine_for
from tests.notifications import envelope, event
from tests.servers.registry import Registry
from tests.web_manifests import image_of
from tests.web_server import front_of, served

KEY = "secretkey"
QUICK_SECONDS = 5.0
"""Long on a busy machine, and far from all time-outs here."""


@contextmanager
def silent_listener() -> Iterator[int]:
    """A port at which connections are accepted, by the kernel, and nothing is ever said."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1000)) as listener:
        yield listener.getsockname()[1]


def get(netloc: str, path: str, seconds: float = 60) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://{netloc}{path}", timeout=seconds)


def soon(netloc: str, path: str) -> int:
    """The status of an answer that comes quickly."""
    begun = time.monotonic()
    status = get(netloc, path).status_code
    assert time.monotonic() - begun < QUICK_SECONDS
    return status


def post(netloc: str, body: bytes, seconds: float) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": KEY}
        return session.post(f"http://{netloc}/v0/event", body, headers=headers, timeout=seconds)


def test_events_do_not_keep_others_waiting_while_the_database_hangs(
    registry: Registry, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (web.granted_roles, web.known_ids):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.5)
    image_of(registry, scope)
    ended = threading.Event()
    with silent_listener() as port:
        engine = create_engine_for(url=f"postgresql://nobody@127.0.0.1:{port}/none", connect_timeout=30)
        settings = {"application": {"event_authorization": KEY}}
        with (
            front_of(registry.netloc, tmp_path, settings=settings, engine=engine, clock=time.time) as front,
            served(front) as netloc,
        ):

            def send() -> None:
                while not ended.is_set():
                    with suppress(requests.RequestException):
                        post(netloc, envelope(event(repository=scope)), 1.0)
                    time.sleep(0.2)

            senders = [threading.Thread(target=send) for _ in range(48)]
            for sender in senders:
                sender.start()
            try:
                until = time.monotonic() + 6
                while time.monotonic() < until:
                    assert soon(netloc, "/ping") == 200
                    assert soon(netloc, f"/v2/{scope}/manifests/latest") == 200
                assert post(netloc, envelope(event(repository=scope)), QUICK_SECONDS).status_code == 503
            finally:
                ended.set()
                for sender in senders:
                    sender.join()
