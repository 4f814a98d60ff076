"""Swarm calls: mirrors find each other, and get leases of chunks, from one lease table whatever the number of workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from core.digest import Digest
from core.errors import SwarmMessageInvalid
from core.secret_file import own_secret
from core.swarm.bitmap import Bitmap
from core.swarm.lease_table import LEASE_SLOTS
from core.swarm.messages import MAX_REQUEST, SeedsAnswer, SwarmAnswer
from core.torrents.capability import mint, verify
from tests.installation import Installation
from tests.program import program
from tests.servers.process import free_port, listening
from tests.servers.waiting import comes_true
from tests.web_parts import NOON, SECRET
from tests.web_server import Front, front_of
from tests.wsgi import Answer, call
from web.swarm import peer_address

LAYER = Digest("a" * 64)
OTHER = Digest("b" * 64)
CHUNKS = 100
LONG_LEASES = {"core.swarm.layer_leases.MIN_LEASE_SECONDS": 600.0}
"""No lease expires during a test."""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with front_of("127.0.0.1:1", tmp_path) as front:
        yield front


def capability(layer: Digest = LAYER, expires: int = NOON + 60, secret: bytes = SECRET) -> str:
    return mint(secret, layer, "library/ubuntu", expires)


def message(node: int = 1, **fields: Any) -> dict[str, Any]:
    held = Bitmap.of(CHUNKS, fields.pop("held", ())).to_base64()
    return {"node": f"{node:032x}", "port": 6881, "chunks": CHUNKS, "held": held, **fields}


def post(
    front: Front, path: str, body: dict[str, Any] | bytes, address: str = "10.0.0.1", **headers: str
) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(front.app, "POST", path, headers=sent, body=raw, environ={"REMOTE_ADDR": address})


def join(front: Front, node: int = 1, address: str = "10.0.0.1", **fields: Any) -> SwarmAnswer:
    answer = post(front, f"/v0/swarm/{capability()}/{LAYER.hex}", message(node, **fields), address)
    assert answer.status == 200, answer.body
    return SwarmAnswer.decode(answer.body)


def test_nodes_get_leases_of_different_chunks_and_each_others_address(front: Front) -> None:
    first = join(front, 1, "10.0.0.1", want=2)
    second = join(front, 2, "10.0.0.2", want=2)

    assert [lease.chunk for lease in first.leases] == [0, 1]
    assert [lease.chunk for lease in second.leases] == [2, 3]
    assert [(peer.ip, peer.port) for peer in second.peers] == [("10.0.0.1", 6881)]


def test_the_capability_is_renewed(front: Front) -> None:
    renewed = verify(SECRET, join(front).capability, LAYER, NOON)

    assert renewed.scope == "library/ubuntu"
    assert renewed.expires == NOON + front.parts.config.torrents.web_seed_lifetime


@pytest.mark.parametrize(
    "path",
    [
        f"{capability(OTHER)}/{LAYER.hex}",
        f"{capability(expires=NOON)}/{LAYER.hex}",
        f"{capability(secret=b'other')}/{LAYER.hex}",
        f"{capability()}/{LAYER.hex[1:]}",
        f"{capability()}/{LAYER.hex}/",
        f"x/{LAYER.hex}",
        "x",
    ],
)
def test_without_a_valid_capability_a_node_is_refused(front: Front, path: str) -> None:
    answer = post(front, f"/v0/swarm/{path}", message())

    assert answer.status == 403
    assert json.loads(answer.body)["errors"][0]["code"] == "DENIED"


def test_the_refusal_does_not_quote_the_capability(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    expired = capability(expires=NOON)
    answer = post(front, f"/v0/swarm/{expired}/{LAYER.hex}", message())

    assert expired.encode() not in answer.body
    assert expired not in caplog.text


@pytest.mark.parametrize("body", [b"", b"{}", b"[1", b"\xff", json.dumps({"port": 1}).encode()])
@pytest.mark.parametrize("path", [f"/v0/swarm/{capability()}/{LAYER.hex}", "/v0/swarm"])
def test_an_invalid_message_is_refused(front: Front, path: str, body: bytes) -> None:
    answer = post(front, path, body)

    assert answer.status == 400
    assert json.loads(answer.body)["errors"][0]["code"] == "SWARM_INVALID"


def test_a_body_that_is_too_long_is_refused(front: Front) -> None:
    path = f"/v0/swarm/{capability()}/{LAYER.hex}"

    assert post(front, path, b" " * (MAX_REQUEST + 1)).status == 413


def test_only_posts_are_answered(front: Front) -> None:
    assert front.get("/v0/swarm").status == 405
    assert front.get(f"/v0/swarm/{capability()}/{LAYER.hex}").status == 405


@pytest.mark.parametrize(
    ("connection", "header", "address"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "10.9.9.9", "10.0.0.1"),
        ("127.0.0.1", "10.9.9.9", "10.9.9.9"),
        ("127.8.8.8", "10.9.9.9", "10.9.9.9"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "10.9.9.9", "10.9.9.9"),
        ("::ffff:10.0.0.1", "10.9.9.9", "10.0.0.1"),
        ("127.0.0.1", "::ffff:10.9.9.9", "10.9.9.9"),
        ("2001:db8::2", "10.9.9.9", "2001:db8::2"),
    ],
)
def test_a_nodes_address_is_that_of_the_connection_or_from_a_trusted_proxy(
    front: Front, connection: str, header: str | None, address: str
) -> None:
    environ = {"REMOTE_ADDR": connection, **({"HTTP_X_REAL_IP": header} if header else {})}

    assert peer_address(environ, front.parts.config.application.trusted_proxies) == address


@pytest.mark.parametrize("header", ["", "example.com", "10.0.0.1, 10.0.0.2", "10.0.0.1:80"])
def test_a_trusted_proxy_without_an_address_is_refused(front: Front, header: str) -> None:
    with pytest.raises(SwarmMessageInvalid):
        peer_address(
            {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": header},
            front.parts.config.application.trusted_proxies,
        )


def test_trusted_proxies_are_configured(tmp_path: Path) -> None:
    settings = {"application": {"trusted_proxies": ["10.0.0.0/24"]}}
    path = f"/v0/swarm/{capability()}/{LAYER.hex}"
    with front_of("127.0.0.1:1", tmp_path, settings=settings) as front:
        post(front, path, message(1), "10.0.0.1", X_Real_IP="10.5.5.5")
        post(front, path, message(2), "127.0.0.1", X_Real_IP="10.6.6.6")
        peers = SwarmAnswer.decode(post(front, path, message(3), "10.0.1.1").body).peers

    assert {peer.ip for peer in peers} == {"10.5.5.5", "127.0.0.1"}


def test_a_node_announces_its_layers_in_one_call(front: Front) -> None:
    layers = [
        {"capability": capability(), "hex": LAYER.hex, "chunks": CHUNKS},
        {"capability": capability(LAYER), "hex": OTHER.hex, "chunks": 3},
        {"capability": capability(OTHER), "hex": OTHER.hex, "chunks": 7},
    ]
    answer = post(front, "/v0/swarm", {"node": "f" * 32, "port": 7000, "layers": layers}, "10.0.0.9")
    announced = SeedsAnswer.decode(answer.body)

    assert [renewed is not None for renewed in announced.capabilities] == [True, False, True]
    assert verify(SECRET, announced.capabilities[2] or "", OTHER, NOON).expires > NOON + 60
    assert announced.again >= 400
    assert [(peer.ip, peer.port) for peer in join(front, 1).peers] == [("10.0.0.9", 7000)]


def test_two_workers_share_one_coordinator(tmp_path: Path) -> None:
    port = free_port()
    installation = Installation(tmp_path, "127.0.0.1:1", application={"port": port})
    web = program(installation, "web", "--workers", "2", constants=LONG_LEASES, ready=listening(port))
    web.start()
    try:
        assert comes_true(lambda: len(listeners(web.pid, port)) == 2)
        leased = leases_of_many_connections(port, installation)
    finally:
        web.stop()

    assert sorted(leased) == sorted(set(leased)), "no chunk was leased twice"
    assert len(leased) == LEASE_SLOTS


def test_the_command_swarm_answers_only_swarm_calls(tmp_path: Path) -> None:
    port = free_port()
    installation = Installation(tmp_path, "127.0.0.1:1", application={"swarm_port": port})
    swarm = program(installation, "swarm", constants=LONG_LEASES, ready=listening(port))
    swarm.start()
    try:
        leased = leases_of_many_connections(port, installation)
        other = requests.get(f"http://127.0.0.1:{port}/v2/", timeout=60)
        ping = requests.get(f"http://127.0.0.1:{port}/ping", timeout=60)
    finally:
        swarm.stop()

    assert sorted(leased) == list(range(LEASE_SLOTS))
    assert other.status_code == 404
    assert ping.text == "pong"


def listeners(pid: int, port: int) -> list[int]:
    """Return the descendants of this process that listen at the port."""
    return [
        child.pid
        for child in psutil.Process(pid).children(recursive=True)
        if any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port
            for one in child.net_connections("tcp")
        )
    ]


def leases_of_many_connections(port: int, installation: Installation) -> list[int]:
    """Return the chunks leased to 40 nodes with separate connections, so that any worker may answer."""
    secret = own_secret(installation.state / "web_seed_secret")
    path = f"{capability(expires=int(time.time()) + 600, secret=secret)}/{LAYER.hex}"

    def node(number: int) -> list[int]:
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://127.0.0.1:{port}/v0/swarm/{path}"
            answer = session.post(url, json=message(number, want=1), timeout=60)
            answer.raise_for_status()
            return [lease.chunk for lease in SwarmAnswer.decode(answer.content).leases]

    with ThreadPoolExecutor(8) as pool:
        return [chunk for leased in pool.map(node, range(40)) for chunk in leased]


def test_the_folder_of_the_shared_coordinator_is_private(tmp_path: Path) -> None:
    from web.swarm_coordinator import LocalCoordinator, serve_coordinator

    with serve_coordinator(LocalCoordinator()) as address:
        folder = Path(address.path).parent
        assert folder.stat().st_mode & 0o077 == 0
        assert folder.stat().st_uid == os.getuid()
        assert address.key.hex() not in repr(address)
    assert not Path(address.path).exists()
