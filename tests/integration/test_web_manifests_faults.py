"""Answers to hostile headers, and with a misbehaving registry."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.manifests.media_types import OCI_INDEX
from tests.servers.bad_http import (
    dripping,
    endless,
    endless_head,
    hanging_up,
    html,
    misstating_length,
    replying,
    sending,
    silent,
)
from tests.servers.http_server import Answer, HttpServer, start_http_server
from tests.servers.registry import Registry
from tests.web_manifests import ENGINE, IMAGE, KIND, PATH, brew, code_of, ids, image_of
from tests.web_server import Front, front_of, served


@pytest.fixture
def upstream() -> Iterator[HttpServer]:
    with start_http_server() as server:
        yield server


@pytest.fixture
def status() -> int:
    """The status that a test expects; some have a parameter of this name."""
    return 200


@pytest.fixture
def front(upstream: HttpServer, tmp_path: Path, status: int) -> Iterator[Front]:
    with front_of(upstream.netloc, tmp_path, read_timeout=2.0 if status == 504 else 60.0) as front:
        yield front


def test_ping_answers_with_the_registry_down(front: Front, upstream: HttpServer) -> None:
    upstream.close()
    assert (front.get("/ping").status, front.get("/ping").body) == (200, b"pong")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (hanging_up(), 502),
        (hanging_up(reset=True), 502),
        (sending(b"not http\r\n\r\n"), 502),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi"), 502),
        (sending(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), 502),
        (misstating_length(IMAGE[:100], len(IMAGE), KIND), 502),
        (replying(200, IMAGE + b" " * (5 << 20), KIND), 502),
        (endless(KIND), 502),
        (endless_head(), 502),
        (silent(), 504),
        (dripping(IMAGE, size=1, seconds=0.5, headers=KIND), 504),
    ],
)
@pytest.mark.parametrize("accept", [ENGINE, "*/*"])
def test_a_registry_without_a_complete_answer_is_502_or_504(
    front: Front, upstream: HttpServer, answer: Answer, status: int, accept: str
) -> None:
    upstream.on(PATH, answer)
    got = front.get(PATH, Accept=accept)
    assert (got.status, code_of(got)) == (status, "UNAVAILABLE")


def test_a_registry_that_is_down_is_502(front: Front, upstream: HttpServer) -> None:
    upstream.close()
    for path in (PATH, "/v2/"):
        got = front.get(path)
        assert (got.status, code_of(got)) == (502, "UNAVAILABLE")
    assert front.head(PATH).status == 502


@pytest.mark.parametrize(
    "answer",
    [
        html(),
        html(500),
        replying(307, b"", {"Location": "https://elsewhere.example/v2/", "Content-Type": "text/html"}),
        replying(429, b'{"errors": []}', {"Retry-After": "7", "Content-Type": "application/json"}),
        replying(503, b"", {"Content-Type": "application/json"}),
        replying(403, b'{"errors": [{"code": "DENIED"}]}', {"Content-Type": "application/json"}),
        replying(200, b"{", KIND),
        replying(200, b"[" * 100_000, KIND),
        replying(200, IMAGE.replace(b"sha256:a", b"sha256:x"), KIND),
        replying(200, IMAGE, {**KIND, "Content-Encoding": "gzip"}),
        replying(200, IMAGE, {"Content-Type": "application/vnd.cncf.helm.config.v1+json"}),
    ],
)
def test_every_other_answer_of_the_registry_is_passed_on(
    front: Front, upstream: HttpServer, answer: Answer
) -> None:
    upstream.on(PATH, answer)
    augmented, untouched = front.get(PATH), front.get(f"{PATH}?rbtorrent=false")
    assert (augmented.status, augmented.body) == (untouched.status, untouched.body)
    assert sorted(augmented.headers.items()) == sorted([*untouched.headers.items(), ("Vary", "Accept")])
    assert untouched.status != 500 or b"Please log in" in untouched.body
    assert augmented.headers["Rbtorrent-Image-Digest"] is None


def test_unusual_headers_of_the_registry_are_tolerated(front: Front, upstream: HttpServer) -> None:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n"
        "X-Folded: one\r\n two\r\nX-Text: Größe\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n"
        "Keep-Alive: 5\r\nTrailer: a\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nok"
    )
    upstream.on(PATH, sending(head.encode()))
    answer = front.get(PATH, Accept=ENGINE)
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["X-Text"] == "Größe".encode().decode("latin-1")
    assert (answer.headers["X-Folded"] or "").split() == ["one", "two"]
    assert answer.headers.get_all("Set-Cookie") == ["a=b", "c=d"]
    assert not {"connection", "keep-alive", "trailer", "x-hop"} & {
        name.lower() for name, _ in answer.headers.items()
    }


def test_a_manifest_with_a_wrong_digest_gets_no_ids(front: Front, upstream: HttpServer) -> None:
    digest = "sha256:" + "d" * 64
    upstream.on(f"/v2/team/app/manifests/{digest}", replying(200, IMAGE, KIND))
    upstream.on(PATH, replying(200, IMAGE, {**KIND, "Docker-Content-Digest": digest}))
    assert front.get(PATH).status == 502
    assert front.get(f"/v2/team/app/manifests/{digest}?rbtorrent=true").status == 502


def test_a_registry_may_name_the_digest_of_another_algorithm(front: Front, upstream: HttpServer) -> None:
    digest = "sha512:" + hashlib.sha512(IMAGE).hexdigest()
    upstream.on(PATH, replying(200, IMAGE, {**KIND, "Docker-Content-Digest": digest}))
    answer = front.get(PATH)
    assert (answer.status, answer.body) == (200, IMAGE)


def test_recursive_and_dangling_indexes_end(front: Front, upstream: HttpServer) -> None:
    def index(*digests: str) -> bytes:
        entries = [{"mediaType": OCI_INDEX, "size": 9, "digest": digest} for digest in digests]
        return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()

    many = [f"sha256:{number:064x}" for number in range(1000)]
    upstream.on("/*", replying(404, headers={"Content-Type": "application/json"}))
    upstream.on(PATH, replying(200, index(*many), {"Content-Type": OCI_INDEX}))
    answer = front.get(PATH)
    assert answer.status == 404
    assert len(upstream.requests) <= 8


def test_only_relevant_headers_reach_the_registry(front: Front, upstream: HttpServer) -> None:
    upstream.on(PATH, replying(200, IMAGE, KIND))
    sent = {
        "Authorization": "Basic c29tZWJvZHk6cGFzc3dvcmQ=",
        "User_Agent": "docker/20.10",
        "X_Forwarded_For": "192.0.2.7",
        "X_Real_IP": "192.0.2.7",
        "Cookie": "a=b",
        "Range": "bytes=0-1",
        "Accept_Encoding": "gzip",
        "Host": "other.example",
        "Connection": "X-Hop",
        "If_None_Match": '"sha256:x"',
        "Accept": "application/json",
        "Transfer_Encoding": "chunked",
    }
    front.get(PATH, **sent)
    headers = {name.lower(): value for name, value in upstream.requests[-1].headers.items()}
    assert len(headers.pop("x-request-id")) >= 8
    assert headers == {
        "host": upstream.netloc,
        "accept": front.parts.config.docker_registry.compatibility_header,
        "accept-encoding": "identity",
        "authorization": "Basic c29tZWJvZHk6cGFzc3dvcmQ=",
        "user-agent": "docker/20.10",
        "x-forwarded-for": "192.0.2.7",
        "x-real-ip": "192.0.2.7",
    }
    front.get(PATH + "?rbtorrent=false", **sent)
    headers = {name.lower(): value for name, value in upstream.requests[-1].headers.items()}
    assert (headers["accept"], headers["if-none-match"]) == ("application/json", '"sha256:x"')
    # The registry is configured by an address, not a name.
    assert headers["host"] == "other.example"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "ü", "a" * 300])
def test_an_invalid_host_never_reaches_the_registry(front: Front, upstream: HttpServer, host: str) -> None:
    upstream.on(PATH, replying(200, IMAGE, KIND))
    front.get(PATH, Accept=ENGINE, Host=host)
    assert upstream.requests[-1].headers.get_all("Host") == [upstream.netloc]


def exchanged(netloc: str, method: str) -> tuple[list[str], bytes]:
    """Return the answer on the wire: sorted lower-case header lines without the date, and the body."""
    host, port = netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        request = f"{method} {PATH}?rbtorrent=false HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    return sorted(line for line in lines if not line.startswith("date:")), body


def test_only_the_server_header_is_added(front: Front, upstream: HttpServer) -> None:
    upstream.on(PATH, sending(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    with served(front) as netloc:
        assert exchanged(netloc, "GET") == (
            ["connection: close", "content-length: 2", "http/1.1 200 ok", "server: granian"],
            b"ok",
        )
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: hub\r\nVia: 1.1 other\r\n\r\n"
    upstream.on(PATH, sending(head + b"ok"))
    expected = ["connection: close", "content-length: 2", "http/1.1 200 ok", "server: hub", "via: 1.1 other"]
    with served(front) as netloc:
        assert exchanged(netloc, "GET") == (expected, b"ok")


def test_a_head_of_unknown_length_has_no_content_length(front: Front, upstream: HttpServer) -> None:
    head = b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.on(PATH, sending(head))
    with served(front) as netloc:
        lines, after = exchanged(netloc, "HEAD")
    assert after == b""
    assert "docker-content-digest: x" in lines
    assert not [line for line in lines if line.startswith(("content-length", "content-type"))]
    upstream.on(PATH, sending(head + b"2\r\nok\r\n0\r\n\r\n"))
    with served(front) as netloc:
        lines, body = exchanged(netloc, "GET")
    assert "content-length: 2" in lines
    assert body == b"ok"


@pytest.mark.parametrize("hostile", ["a\x00b", "ü" * 10, "x" * 60_000, "\x7f", "a\tb"])
def test_unusual_headers_of_the_caller_are_tolerated(
    front: Front, upstream: HttpServer, hostile: str
) -> None:
    upstream.on(PATH, replying(200, IMAGE, KIND))
    for name in ("Authorization", "Accept", "If_None_Match", "User_Agent", "X_Real_IP"):
        answer = front.get(PATH, **{name: hostile})
        assert answer.status in (200, 400, 502)
        assert answer.status == 200 or code_of(answer)


def test_an_internal_error_reveals_nothing_to_the_client(
    tmp_path: Path, upstream: HttpServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def admit(self, headers: Any) -> None:
            raise RuntimeError("something secret")

    with front_of(upstream.netloc, tmp_path / "broken", access=Broken()) as front:
        answer = front.get(PATH)
    assert (answer.status, code_of(answer)) == (500, "UNKNOWN")
    assert b"secret" not in answer.body
    assert "request failed, internal error method=GET" in caplog.text
    # A traceback that is not in the log's format has no request id.
    assert "Traceback" not in capfd.readouterr().err


def test_no_log_contains_a_token(
    registry: Registry,
    tmp_path: Path,
    scope: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    image = image_of(registry, scope)
    token = "dGhyb3ctYXdheS10b2tlbg"
    with front_of(registry.netloc, tmp_path / "well") as front:
        brew(front, image.layers[0])
        for kind in ("Bearer", "Basic", "OAuth", ""):
            sent = {"Authorization": f"{kind} {token}".strip()}
            assert ids(front.get(f"/v2/{scope}/manifests/latest", **sent))[0]
            front.head(f"/v2/{scope}/manifests/latest", **sent)
            front.get("/v2/", **sent)
            front.get(f"/v2/UPPER/manifests/latest?rbtorrent={token}", **sent)
            front.ask("PUT", f"/v2/{scope}/manifests/latest", **sent)
    with start_http_server() as bad, front_of(bad.netloc, tmp_path / "bad") as front:
        for answer in (hanging_up(), html(500), replying(200, b"{", KIND)):
            bad.on(PATH, answer)
            front.get(PATH, Authorization=f"Bearer {token}")
            front.get(PATH, Authorization=f"Bearer {token}\x00")
    assert "manifest" in caplog.text
    assert token not in caplog.text
    written = capfd.readouterr()
    assert token not in written.out + written.err
