"""Images with brewed layers, and comparison of answers with those of the registry, for tests of manifests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import requests
import sqlalchemy as sa

from core.manifests.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from sql.transaction import transaction
from tests.servers.layers import layer_bytes
from tests.servers.push import Descriptor, PushedImage, push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true
from tests.web_server import Front
from tests.wsgi import Answer

FIELD = "rbtorrent_id"
ENGINE = ", ".join([DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"])
"""The Accept header of container engines."""

PATH = "/v2/team/app/manifests/latest"
IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": "application/json", "size": 2, "digest": "sha256:" + "c" * 64},
        "layers": [{"mediaType": "application/gzip", "size": 9, "digest": "sha256:" + "a" * 64}],
    }
).encode()
KIND = {"Content-Type": DOCKER_MANIFEST}


def rbtorrent(digest: str) -> str:
    """Return some id for a layer."""
    return "rbtorrent:" + hashlib.sha1(digest.encode()).hexdigest()


def brew(front: Front, *layers: Descriptor) -> None:
    """Mark these layers as brewed, with the ids of `rbtorrent`."""
    mapping = front.parts.tables.mapping
    with transaction(front.parts.engine) as connection:
        for layer in layers:
            row = {"digest": layer.digest, "rbtorrent_id": rbtorrent(layer.digest), "added": 1, "brewed": 2}
            connection.execute(sa.insert(mapping).values(row))


def sha256(body: bytes) -> str:
    """Return the digest of these bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def ids(answer: Answer) -> list[str | None]:
    """Return the id of each layer in an answer, None where it has none."""
    return [layer.get(FIELD) for layer in json.loads(answer.body)["layers"]]


def directly(registry: Registry, method: str, path: str, **headers: str) -> requests.Response:
    """Return the registry's own answer; `_` in a header's name stands for `-`."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return session.request(method, f"{registry.url}{path}", headers=sent, timeout=60)


def assert_untouched(
    answer: Answer, registry: Registry, method: str, path: str, *, varies: bool = False, **headers: str
) -> None:
    """Assert that the answer is the registry's own: status, body, and every header but the date.

    If it `varies` with Accept, it also has `Vary`.
    """
    own = directly(registry, method, path, **headers)

    def lasting(pairs: Any) -> set[tuple[str, str]]:
        return {(name.lower(), value) for name, value in pairs if name.lower() not in ("date", "connection")}

    assert answer.status == own.status_code
    assert answer.body == own.content
    also = {("vary", "Accept")} if varies else set()
    assert lasting(answer.headers.items()) == lasting(own.headers.items()) | also


def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds. Fails the test if it does not."""
    assert comes_true(condition)


def image_of(registry: Registry, scope: str, tag: str | None = "latest", **more: Any) -> PushedImage:
    """Return an image of three small layers."""
    return push_image(registry, scope, tag, [layer_bytes(3000, seed) for seed in (1, 2, 3)], **more)


def code_of(answer: Answer) -> str:
    """Return the code of an error in the registry's form, which every error has."""
    assert (answer.headers["Content-Type"] or "").startswith("application/json")
    errors = json.loads(answer.body)["errors"]
    assert len(errors) == 1
    assert set(errors[0]) == {"code", "message", "detail"}
    assert "Traceback" not in answer.body.decode()
    code: str = errors[0]["code"]
    return code
