"""Pushing to a registry by its HTTP API, as a container engine does (distribution's spec/api)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

import requests
from requests.auth import AuthBase

from tests.servers.layers import Layer, diff_id_of, digest_of, size_of
from tests.servers.registry import Registry

Media = Literal["docker", "oci"]
Auth = tuple[str, str] | AuthBase | None

MANIFEST: dict[Media, str] = {
    "docker": "application/vnd.docker.distribution.manifest.v2+json",
    "oci": "application/vnd.oci.image.manifest.v1+json",
}
INDEX: dict[Media, str] = {
    "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
    "oci": "application/vnd.oci.image.index.v1+json",
}
CONFIG: dict[Media, str] = {
    "docker": "application/vnd.docker.container.image.v1+json",
    "oci": "application/vnd.oci.image.config.v1+json",
}
LAYER: dict[Media, str] = {
    "docker": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "oci": "application/vnd.oci.image.layer.v1.tar+gzip",
}
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Descriptor:
    """The descriptor of a blob or manifest. `platform` is `os/arch[/variant]`."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    platform: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the descriptor as in a manifest (OCI image-spec, descriptor.md)."""
        described: dict[str, Any] = {"mediaType": self.media_type, "size": self.size, "digest": self.digest}
        if self.urls:
            described["urls"] = list(self.urls)
        if self.platform is not None:
            names = ("os", "architecture", "variant")
            described["platform"] = dict(zip(names, self.platform.split("/"), strict=False))
        return described


@dataclass(frozen=True)
class PushedImage:
    """An image in a registry. `manifest` is the exact body, `descriptor` its entry in an index."""

    scope: str
    tag: str | None
    manifest: bytes
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the manifest."""
        return self.descriptor.digest


@dataclass(frozen=True)
class PushedIndex:
    """A docker manifest list or an OCI index in a registry."""

    scope: str
    tag: str | None
    manifest: bytes
    descriptor: Descriptor
    children: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the index."""
        return self.descriptor.digest


class Bearer(AuthBase):
    """`Authorization: Bearer <token>`, for the `auth` argument of the functions here."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def push_blob(
    registry: Registry | str,
    scope: str,
    content: Layer,
    *,
    media_type: str = LAYER["docker"],
    auth: Auth = None,
) -> Descriptor:
    """Push bytes, or a file as a stream. A blob that the repository has is not sent again.

    `registry` is a Registry or a URL, such as that of a proxy in front of one. Raises requests.HTTPError.
    """
    with _session(auth) as session:
        return _push_blob(session, _url(registry), scope, content, media_type)


def mount_blob(registry: Registry | str, scope: str, digest: str, source: str, *, auth: Auth = None) -> bool:
    """Mount a blob from the repository `source`; return False if the registry requires an upload instead."""
    with _session(auth) as session:
        answer = session.post(
            f"{_url(registry)}/v2/{scope}/blobs/uploads/",
            params={"mount": digest, "from": source},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return answer.status_code == 201


def push_manifest(
    registry: Registry | str, scope: str, tag: str | None, body: bytes, media_type: str, *, auth: Auth = None
) -> str:
    """Put a manifest of any kind under `tag`, or under its digest alone. Returns the digest."""
    with _session(auth) as session:
        return _push_manifest(session, _url(registry), scope, tag, body, media_type)


def push_image(
    registry: Registry | str,
    scope: str,
    tag: str | None,
    layers: Sequence[Layer],
    *,
    media: Media = "docker",
    platform: str = "linux/amd64",
    auth: Auth = None,
) -> PushedImage:
    """Push an image of these layers, bottom first, with a config that container engines accept."""
    url = _url(registry)
    with _session(auth) as session:
        pushed = [_push_blob(session, url, scope, layer, LAYER[media]) for layer in layers]
        config = _push_blob(session, url, scope, _image_config(layers, platform), CONFIG[media])
        body = image_manifest(config, pushed, media=media)
        digest = _push_manifest(session, url, scope, tag, body, MANIFEST[media])
    descriptor = Descriptor(MANIFEST[media], digest, len(body), platform=platform)
    return PushedImage(scope, tag, body, descriptor, config, tuple(pushed))


def push_index(
    registry: Registry | str,
    scope: str,
    tag: str | None,
    children: Sequence[Descriptor],
    *,
    media: Media = "docker",
    auth: Auth = None,
) -> PushedIndex:
    """Push a list or index of manifests that were pushed before: `[image.descriptor, …]`."""
    body = _json(
        {
            "schemaVersion": 2,
            "mediaType": INDEX[media],
            "manifests": [child.as_json() for child in children],
        }
    )
    digest = push_manifest(registry, scope, tag, body, INDEX[media], auth=auth)
    return PushedIndex(scope, tag, body, Descriptor(INDEX[media], digest, len(body)), tuple(children))


def image_manifest(config: Descriptor, layers: Sequence[Descriptor], *, media: Media = "docker") -> bytes:
    """Return the body of an image manifest, formatted as by engines."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST[media],
            "config": config.as_json(),
            "layers": [layer.as_json() for layer in layers],
        }
    )


def _push_blob(
    session: requests.Session, url: str, scope: str, content: Layer, media_type: str
) -> Descriptor:
    digest = digest_of(content)
    descriptor = Descriptor(media_type, digest, size_of(content))
    if session.head(f"{url}/v2/{scope}/blobs/{digest}", timeout=TIMEOUT_SECONDS).ok:
        return descriptor
    begun = session.post(f"{url}/v2/{scope}/blobs/uploads/", timeout=TIMEOUT_SECONDS)
    begun.raise_for_status()
    where = urljoin(begun.url, begun.headers["Location"])
    if isinstance(content, Path):
        with content.open("rb") as file:
            _finish_upload(session, where, digest, file)
    else:
        _finish_upload(session, where, digest, content)
    return descriptor


def _finish_upload(session: requests.Session, where: str, digest: str, body: Any) -> None:
    answer = session.put(
        where,
        params={"digest": digest},
        data=body,
        headers={"Content-Type": "application/octet-stream"},
        timeout=TIMEOUT_SECONDS,
    )
    answer.raise_for_status()


def _push_manifest(
    session: requests.Session, url: str, scope: str, tag: str | None, body: bytes, media_type: str
) -> str:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    answer = session.put(
        f"{url}/v2/{scope}/manifests/{tag or digest}",
        data=body,
        headers={"Content-Type": media_type},
        timeout=TIMEOUT_SECONDS,
    )
    answer.raise_for_status()
    return digest


def _image_config(layers: Sequence[Layer], platform: str) -> bytes:
    system, architecture = platform.split("/")[:2]
    return _json(
        {
            "architecture": architecture,
            "os": system,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id_of(layer) for layer in layers]},
        }
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def _url(registry: Registry | str) -> str:
    return registry if isinstance(registry, str) else registry.url


@contextmanager
def _session(auth: Auth) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # no proxy and no .netrc between the tests and their servers
        session.auth = auth
        yield session
