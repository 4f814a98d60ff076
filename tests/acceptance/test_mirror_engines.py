"""Unmodified container engines pull through the mirror, by tag and by digest, public and private images."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.acceptance.engines import Containerd, Docker, Engine, Login, Podman, PullFailed, Skopeo
from tests.mirror_process import MirrorProcess, start_mirror
from tests.servers.dockerd import Dockerd, start_dockerd
from tests.servers.layers import layer_bytes, layer_tar
from tests.servers.push import Auth, Bearer, Media, PushedImage, PushedIndex, push_image, push_index
from tests.servers.registry import Registry, start_registry
from tests.servers.token_server import User, start_token_server

READER = Login("reader", "throw-away")
SCOPE = "team/app"
KINDS = ["public", "htpasswd", "token"]
MEDIA: list[Media] = ["docker", "oci"]
ENGINES = ["docker", "containerd", "skopeo", "podman"]
TAGS = [f"{arity}-{media}" for arity in ("single", "multi") for media in MEDIA]


@dataclass(frozen=True)
class Site:
    """A registry and a mirror of it. Its tags are `single-` and `multi-` with docker or oci."""

    registry: Registry
    mirror: MirrorProcess
    login: Login | None
    pushed: dict[str, PushedImage | PushedIndex]


def push_all(registry: Registry, auth: Auth) -> dict[str, PushedImage | PushedIndex]:
    """An image and an index of two platforms, as docker's and as OCI's, with a layer above 1 MiB in each."""
    pushed: dict[str, PushedImage | PushedIndex] = {}
    numbers = itertools.count()

    def image(tag: str | None, **more: Any) -> PushedImage:
        layers = [
            layer_tar({f"file{next(numbers)}": layer_bytes(size, seed=next(numbers))})
            for size in (2_000_000, 100)
        ]
        return push_image(registry, SCOPE, tag, layers, auth=auth, **more)

    for media in MEDIA:
        pushed[f"single-{media}"] = image(f"single-{media}", media=media)
        platforms = ("linux/arm64/v8", "linux/amd64")
        children = [image(None, media=media, platform=platform) for platform in platforms]
        described = [child.descriptor for child in children]
        tag = f"multi-{media}"
        pushed[tag] = push_index(registry, SCOPE, tag, described, media=media, auth=auth)
    return pushed


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        how: dict[str, Any] = {}
        auth: Auth = None
        if request.param == "htpasswd":
            how, auth = {"htpasswd": {READER.user: READER.password}}, (READER.user, READER.password)
        if request.param == "token":
            users = {READER.user: User(READER.password, {"team/*": {"pull", "push"}})}
            tokens = stack.enter_context(start_token_server(folder, users))
            access = [{"type": "repository", "name": SCOPE, "actions": ["pull", "push"]}]
            how, auth = {"token": tokens.registry_auth()}, Bearer(tokens.token("pusher", access))
        registry = stack.enter_context(start_registry(folder / "registry", **how))
        pushed = push_all(registry, auth)
        mirror = stack.enter_context(start_mirror(folder / "mirror", registry))
        yield Site(registry, mirror, READER if how else None, pushed)


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with start_dockerd(tmp_path_factory.mktemp("dockerd")) as daemon:
        yield daemon


class ThroughMirror:
    """An engine that is configured to pull the registry's images through the mirror."""

    def __init__(self, name: str, site: Site, folder: Path, daemon: Dockerd | None) -> None:
        self._site = site
        self._folder = folder
        self.engine: Engine
        # dockerd's old image store mirrors Docker Hub only: the mirror is named in the reference.
        host = site.mirror.netloc if name == "docker" else site.registry.netloc
        self.repository = f"{host}/{SCOPE}"
        if name == "docker":
            assert daemon is not None
            self.engine = Docker(daemon, folder)
        elif name == "containerd":
            assert daemon is not None
            self.engine = Containerd(daemon, folder, hosts_dir=site.mirror.write_hosts(folder / "certs.d"))
        else:
            site.mirror.write_registries(folder / ".config/containers/registries.conf")
            self.engine = Skopeo(folder) if name == "skopeo" else Podman(folder)

    def pull(self, tag_or_digest: str, login: Login | None) -> str:
        """The digest recorded for `:tag` or `@digest`."""
        if isinstance(self.engine, Skopeo | Podman):
            # Credentials that are given for a pull are the registry's: the mirror gets its own, or none.
            self._keep(login)
            login = None
        return self.engine.pull(self.repository + tag_or_digest, login)

    def _keep(self, login: Login | None) -> None:
        """Keep the login as `podman login` does, for the registry and for the mirror."""
        file = self._folder / "containers/auth.json"
        file.parent.mkdir(exist_ok=True)
        entry = {"auth": base64.b64encode(str(login).encode()).decode()}
        hosts = (self._site.registry.netloc, self._site.mirror.netloc)
        file.write_text(json.dumps({"auths": dict.fromkeys(hosts, entry) if login else {}}))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, site: Site) -> Iterator[ThroughMirror]:
    needs_daemon = request.param in ("docker", "containerd")
    daemon: Dockerd | None = request.getfixturevalue("dockerd") if needs_daemon else None
    # podman takes only short paths.
    with TemporaryDirectory(prefix="pull-") as folder:
        yield ThroughMirror(request.param, site, Path(folder), daemon)


@pytest.mark.parametrize("tag", TAGS)
def test_an_engine_records_the_registrys_digest_by_tag_and_by_digest(
    site: Site, engine: ThroughMirror, tag: str
) -> None:
    digest = site.pushed[tag].digest
    before = site.mirror.layer_requests()
    assert engine.pull(f":{tag}", site.login) == digest
    assert engine.pull(f"@{digest}", site.login) == digest
    assert site.mirror.layer_requests() > before, "no layer was asked for at the mirror"


@pytest.mark.parametrize("site", ["htpasswd", "token"], indirect=True)
def test_without_the_password_no_engine_pulls_what_is_cached(site: Site, engine: ThroughMirror) -> None:
    engine.pull(":single-docker", site.login)
    with pytest.raises(PullFailed, match=r"(?i)unauthorized|authentication required|no basic auth|denied"):
        engine.pull(":single-docker", None)
