"""What tests of manifests share: images with brewed layers, and answers held to the registry's own."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import requests
import sqlalchemy as sa

from core.manifests.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from sql.transaction import transaction
from tests.servers.layers import layer_bytes
from tests.servers.push import Descriptor, PushedImage, push_image
from tests.servers.registry import Registry
from tests.web_server import Front
from tests.wsgi import Answer

FIELD = "rbtorrent_id"
ENGINE = ", ".join([DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"])
"""What container engines accept."""


def rbtorrent(digest: str) -> str:
    """An id for a layer, as good as any."""
    return "rbtorrent:" + hashlib.sha1(digest.encode()).hexdigest()


def brew(front: Front, *layers: Descriptor) -> None:
    """Mark these layers as brewed, with the ids of `rbtorrent`."""
    mapping = front.parts.tables.mapping
    with transaction(front.parts.engine) as connection:
        for layer in layers:
            row = {"digest": layer.digest, "rbtorrent_id": rbtorrent(layer.digest), "added": 1, "brewed": 2}
            connection.execute(sa.insert(mapping).values(row))


def sha256(body: bytes) -> str:
    """The digest of these bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def ids(answer: Answer) -> list[str | None]:
    """The id of each layer in an answer, None where it has none."""
    return [layer.get(FIELD) for layer in json.loads(answer.body)["layers"]]


def directly(registry: Registry, method: str, path: str, **headers: str) -> requests.Response:
    """The registry's own answer; `_` in a header's name stands for `-`."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return session.request(method, f"{registry.url}{path}", headers=sent, timeout=20)


def assert_untouched(
    answer: Answer, registry: Registry, method: str, path: str, *, varies: bool = False, **headers: str
) -> None:
    """The app's answer is the registry's own: status, body, and every header but the moment.

    It `varies` if another Accept would have brought ids: this is said, too.
    """
    own = directly(registry, method, path, **headers)

    def lasting(pairs: Any) -> set[tuple[str, str]]:
        return {(name.lower(), value) for name, value in pairs if name.lower() not in ("date", "connection")}

    assert answer.status == own.status_code
    assert answer.body == own.content
    also = {("vary", "Accept")} if varies else set()
    assert lasting(answer.headers.items()) == lasting(own.headers.items()) | also


def until(true: Callable[[], object]) -> None:
    """Wait until it is true, for ten seconds at most."""
    give_up = time.monotonic() + 10
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def image_of(registry: Registry, scope: str, tag: str | None = "latest", **more: Any) -> PushedImage:
    """An image of three small layers."""
    return push_image(registry, scope, tag, [layer_bytes(3000, seed) for seed in (1, 2, 3)], **more)


def code_of(answer: Answer) -> str:
    """The code of an error in the registry's form, which every error has."""
    assert (answer.headers["Content-Type"] or "").startswith("application/json")
    told = json.loads(answer.body)["errors"]
    assert len(told) == 1
    assert set(told[0]) == {"code", "message", "detail"}
    assert "Traceback" not in answer.body.decode()
    code: str = told[0]["code"]
    return code
