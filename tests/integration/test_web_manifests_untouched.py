"""Manifests passed through unchanged, with all headers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.manifests.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
)
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.registry import Registry
from tests.web_manifests import ENGINE, assert_untouched, brew, ids, image_of
from tests.web_parts import rows
from tests.web_server import Front, front_of


@pytest.fixture
def front(registry: Registry, tmp_path: Path) -> Iterator[Front]:
    with front_of(registry.netloc, tmp_path / "front") as front:
        yield front


@pytest.mark.parametrize(
    "accept",
    [ENGINE, DOCKER_LIST, f"text/html,{OCI_INDEX};q=0.5", OCI_INDEX.upper(), f"{OCI_MANIFEST},{DOCKER_LIST}"],
)
def test_a_list_in_accept_yields_the_registrys_bytes(
    front: Front, registry: Registry, scope: str, accept: str
) -> None:
    image = image_of(registry, scope, media="oci")
    brew(front, *image.layers)
    path = f"/v2/{scope}/manifests/latest"
    sent = f"{accept}, {OCI_MANIFEST}"
    assert_untouched(front.get(path, Accept=sent), registry, "GET", path, varies=True, Accept=sent)


@pytest.mark.parametrize("query", ["", "?rbtorrent=true", "?ns=docker.io"])
def test_head_is_the_registrys_own(front: Front, registry: Registry, scope: str, query: str) -> None:
    image = image_of(registry, scope)
    brew(front, *image.layers)
    for reference in ("latest", image.digest, "missing"):
        path = f"/v2/{scope}/manifests/{reference}"
        answer = front.head(path + query, Accept=ENGINE)
        assert_untouched(answer, registry, "HEAD", path, Accept=ENGINE)
    answer = front.head(f"/v2/{scope}/manifests/latest{query}", Accept=ENGINE)
    assert answer.headers["Content-Length"] == str(len(image.manifest))


@pytest.mark.parametrize("query", ["", "?rbtorrent=false", "?ns=docker.io"])
def test_by_digest_the_answer_is_the_registrys_own(
    front: Front, registry: Registry, scope: str, query: str
) -> None:
    image = image_of(registry, scope)
    brew(front, *image.layers)
    for reference in (image.digest, "sha256:" + "0" * 64):
        path = f"/v2/{scope}/manifests/{reference}"
        assert_untouched(front.get(path + query, Accept=ENGINE), registry, "GET", path, Accept=ENGINE)
        assert_untouched(front.get(path + query), registry, "GET", path)


def test_ns_as_containerd_adds_it_changes_nothing(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    brew(front, *image.layers)
    path = f"/v2/{scope}/manifests/latest"
    assert front.get(f"{path}?ns=docker.io").body == front.get(path).body
    answer = front.get(f"{path}?ns=docker.io", Accept=ENGINE)
    assert_untouched(answer, registry, "GET", path, varies=True, Accept=ENGINE)


def test_a_304_of_the_registry_is_passed_through(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    for method, reference in [("GET", image.digest), ("HEAD", "latest")]:
        path = f"/v2/{scope}/manifests/{reference}"
        sent = {"Accept": ENGINE, "If_None_Match": f'"{image.digest}"'}
        answer = front.ask(method, path, **sent)
        assert answer.status == 304
        assert_untouched(answer, registry, method, path, **sent)


def test_a_missing_manifest_is_the_registrys_own_404(front: Front, registry: Registry, scope: str) -> None:
    for path in (f"/v2/{scope}/manifests/latest", "/v2/nowhere/manifests/latest"):
        assert_untouched(front.get(path), registry, "GET", path, varies=True, Accept=DOCKER_MANIFEST)


def test_neither_head_nor_an_untouched_get_writes_anything(
    front: Front, registry: Registry, scope: str
) -> None:
    image = image_of(registry, scope)
    front.head(f"/v2/{scope}/manifests/latest")
    front.get(f"/v2/{scope}/manifests/{image.digest}")
    front.get(f"/v2/{scope}/manifests/latest", Accept=ENGINE)
    front.app.close()
    assert rows(front.parts, front.parts.tables.mapping, "digest") == []


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_ping_is_the_registrys(front: Front, registry: Registry, path: str) -> None:
    for method in ("GET", "HEAD"):
        assert_untouched(front.ask(method, path), registry, method, "/v2/")


def test_schema_1_is_passed_through(registry: Registry, scope: str, tmp_path: Path) -> None:
    # docker-registry 2.8 accepts schema 1 only if configured to, so its answer is simulated.
    body = b'{"schemaVersion": 1, "name": "a", "fsLayers": [], "layers": []}'
    with start_http_server() as old, front_of(old.netloc, tmp_path / "old") as front:
        old.on("/v2/a/manifests/b", replying(200, body, {"Content-Type": DOCKER_SCHEMA1_SIGNED}))
        answer = front.get("/v2/a/manifests/b")
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["Content-Type"] == DOCKER_SCHEMA1_SIGNED
        assert answer.headers["Rbtorrent-Image-Digest"] is None


def test_the_query_overrides_accept(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    brew(front, *image.layers)
    path = f"/v2/{scope}/manifests/latest"
    assert None not in ids(front.get(f"{path}?rbtorrent=true", Accept=ENGINE))
    assert None not in ids(front.get(f"/v2/{scope}/manifests/{image.digest}?rbtorrent=true"))
    assert_untouched(front.get(f"{path}?rbtorrent=false"), registry, "GET", path)
    assert front.get(f"{path}?rbtorrent=perhaps").status == 400
