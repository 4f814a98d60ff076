"""Hostile names, paths and methods do not reach the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.bad_http import replying
from tests.servers.http_server import HttpServer, start_http_server
from tests.web_manifests import IMAGE, KIND, PATH, code_of
from tests.web_server import Front, front_of


@pytest.fixture
def upstream() -> Iterator[HttpServer]:
    with start_http_server() as server:
        yield server


@pytest.fixture
def front(upstream: HttpServer, tmp_path: Path) -> Iterator[Front]:
    with front_of(upstream.netloc, tmp_path) as front:
        yield front


@pytest.mark.parametrize(
    "scope",
    [
        "..",
        "../..",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "Upper",
        "a" * 300,
        "a%2F..%2Fb",
        "%2e%2e",
        "a%00b",
        "a%0Ab",
        "a%20b",
        "a%FFb",
        "%C3%A4",
        "a%25b",
        "a?b",
        "a;b",
        "a\\b",
        "a:b",
        "a@b",
        "-a",
        "a_-b",
        "a%0D%0AX-Evil:%201",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_invalid_scope_never_reaches_the_registry(
    front: Front, upstream: HttpServer, scope: str, method: str
) -> None:
    answer = front.ask(method, f"/v2/{scope}/manifests/latest")
    assert answer.status in (400, 404)
    if method == "GET":
        assert code_of(answer) in ("NAME_INVALID", "NOT_FOUND")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "reference",
    [
        "..",
        ".hidden",
        "a" * 129,
        "a%2Fb",
        "a%00b",
        "a%0Ab",
        "a%FFb",
        "a b",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 65,
        "sha512:" + "a" * 128,
        "sha256:%2e%2e/" + "a" * 61,
        "",
    ],
)
def test_an_invalid_reference_never_reaches_the_registry(
    front: Front, upstream: HttpServer, reference: str
) -> None:
    answer = front.get(f"/v2/team/app/manifests/{reference}")
    assert answer.status in (400, 404)
    assert code_of(answer) in ("TAG_INVALID", "DIGEST_INVALID", "NAME_INVALID", "NOT_FOUND")
    assert upstream.requests == []


def test_an_encoded_slash_is_a_slash_as_for_the_registry(front: Front, upstream: HttpServer) -> None:
    upstream.on(PATH, replying(200, IMAGE, KIND))
    assert front.get("/v2/team%2Fapp/manifests/latest").status == 200
    assert [request.path for request in upstream.requests] == [PATH]


def test_the_last_manifests_of_a_path_counts(front: Front, upstream: HttpServer) -> None:
    upstream.on("/v2/team/manifests/app/manifests/latest", replying(200, IMAGE, KIND))
    assert front.get("/v2/team/manifests/app/manifests/latest").status == 200


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/v2/team/app/tags/list", "/v2/a/blobs/b", "/v2/manifests/a", "/v1/", "/v2/a\n/b", "//"],
)
def test_an_unknown_path_is_404(front: Front, path: str) -> None:
    answer = front.get(path)
    assert (answer.status, code_of(answer)) == (404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_405(front: Front, upstream: HttpServer, method: str) -> None:
    answer = front.ask(method, PATH)
    assert (answer.status, code_of(answer)) == (405, "UNSUPPORTED")
    assert sorted((answer.headers["Allow"] or "").split(",")) == ["GET", "HEAD"]
    assert upstream.requests == []
