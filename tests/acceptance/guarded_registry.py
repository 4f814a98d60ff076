"""Registries that are public, or guarded by passwords or tokens, with images that engines pull from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.acceptance.engines import Login
from tests.servers.layers import layer_bytes, layer_tar
from tests.servers.push import Auth, Bearer, Media, PushedImage, push_image, push_index
from tests.servers.registry import Registry, start_registry
from tests.servers.token_server import User, start_token_server

Kind = Literal["public", "htpasswd", "token"]

KINDS: list[Kind] = ["public", "htpasswd", "token"]
ENGINES = ["docker", "containerd", "skopeo", "podman"]
READER = Login("reader", "throw-away")
SCOPE = "team/app"
TAGS = [f"{arity}-{media}" for arity in ("single", "multi") for media in ("docker", "oci")]


@dataclass(frozen=True)
class GuardedRegistry:
    """A registry whose repository SCOPE requires `login`, or none. `auth` may push."""

    registry: Registry
    login: Login | None
    auth: Auth


@contextmanager
def start_guarded_registry(kind: Kind, folder: Path, host: str = "127.0.0.1") -> Iterator[GuardedRegistry]:
    """Run a registry, and the token server that it needs, on `host`."""
    with ExitStack() as stack:
        how: dict[str, Any] = {}
        auth: Auth = None
        if kind == "htpasswd":
            how, auth = {"htpasswd": {READER.user: READER.password}}, (READER.user, READER.password)
        if kind == "token":
            users = {READER.user: User(READER.password, {"team/*": {"pull", "push"}})}
            tokens = stack.enter_context(start_token_server(folder, users, host=host))
            access = [{"type": "repository", "name": SCOPE, "actions": ["pull", "push"]}]
            how, auth = (
                {"token": tokens.registry_auth()},
                Bearer(tokens.token("pusher", access, lifetime=3600)),
            )
        registry = stack.enter_context(start_registry(folder / "registry", host=host, **how))
        yield GuardedRegistry(registry, READER if how else None, auth)


@dataclass(frozen=True)
class Pushed:
    """An image or an index, and the images of its platforms. Engines record `digest`."""

    digest: str
    images: tuple[PushedImage, ...]


def push_all(guarded: GuardedRegistry, sizes: Sequence[int], tags: Sequence[str] = TAGS) -> dict[str, Pushed]:
    """Push those of `tags`: an image and an index of two platforms, each in docker's and OCI's format.

    Each image has layers of about `sizes` bytes.
    """
    numbers = itertools.count()

    def image(tag: str | None, **more: Any) -> PushedImage:
        layers = [
            layer_tar({f"file{next(numbers)}": layer_bytes(size, seed=next(numbers))}) for size in sizes
        ]
        return push_image(guarded.registry, SCOPE, tag, layers, auth=guarded.auth, **more)

    pushed: dict[str, Pushed] = {}
    for tag in tags:
        arity, _, name = tag.partition("-")
        media: Media = "oci" if name == "oci" else "docker"
        if arity == "single":
            one = image(tag, media=media)
            pushed[tag] = Pushed(one.digest, (one,))
            continue
        platforms = ("linux/arm64/v8", "linux/amd64")
        children = tuple(image(None, media=media, platform=platform) for platform in platforms)
        described = [child.descriptor for child in children]
        index = push_index(guarded.registry, SCOPE, tag, described, media=media, auth=guarded.auth)
        pushed[tag] = Pushed(index.digest, children)
    return pushed
