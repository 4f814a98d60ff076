"""Container engines pull and push through nginx and the app, and get the registry's digests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from tests.acceptance.engines import Containerd, Docker, Engine, Login, Podman, PullFailed, Skopeo
from tests.acceptance.guarded_registry import (
    ENGINES,
    KINDS,
    SCOPE,
    TAGS,
    Pushed,
    push_all,
    start_guarded_registry,
)
from tests.nginx_front import nginx_front
from tests.servers.dockerd import Dockerd, start_dockerd
from tests.servers.nginx import Nginx
from tests.web_manifests import brew, rbtorrent
from tests.web_server import front_of, served


@dataclass(frozen=True)
class Site:
    """A registry with nginx and the app in front. Its tags are `single-` and `multi-` with docker or oci."""

    nginx: Nginx
    login: Login | None
    pushed: dict[str, Pushed]

    @property
    def repository(self) -> str:
        return f"127.0.0.1:{self.nginx.port}/{SCOPE}"


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        guarded = stack.enter_context(start_guarded_registry(request.param, folder))
        registry, pushed = guarded.registry, push_all(guarded, [8, 8])
        front = stack.enter_context(front_of(registry.netloc, folder / "front"))
        # With ids in every augmented answer, an engine that got one would record another digest.
        for image in (image for one in pushed.values() for image in one.images):
            brew(front, *image.layers)
        app = stack.enter_context(served(front))
        nginx = stack.enter_context(nginx_front(folder / "nginx", registry=registry.netloc, app=app))
        yield Site(nginx, guarded.login, pushed)


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with start_dockerd(tmp_path_factory.mktemp("dockerd")) as daemon:
        yield daemon


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "skopeo":
        yield Skopeo(tmp_path)
    elif request.param == "podman":
        with TemporaryDirectory(prefix="podman-") as short:
            yield Podman(Path(short))
    else:
        daemon: Dockerd = request.getfixturevalue("dockerd")
        yield Docker(daemon, tmp_path) if request.param == "docker" else Containerd(daemon, tmp_path)


@pytest.mark.parametrize("tag", TAGS)
def test_an_engine_records_the_registrys_digest_by_tag_and_by_digest(
    site: Site, engine: Engine, tag: str
) -> None:
    digest = site.pushed[tag].digest
    assert engine.pull(f"{site.repository}:{tag}", site.login) == digest
    assert engine.pull(f"{site.repository}@{digest}", site.login) == digest


@pytest.mark.parametrize("site", ["htpasswd", "token"], indirect=True)
def test_without_the_password_no_engine_pulls(site: Site, engine: Engine) -> None:
    with pytest.raises(PullFailed, match=r"(?i)unauthorized|authentication required|no basic auth|denied"):
        engine.pull(f"{site.repository}:single-docker", None)


def test_docker_pushes_and_pulls_through_the_front(site: Site, dockerd: Dockerd, tmp_path: Path) -> None:
    archive, tag = tmp_path / "archive.tar", "made-here:latest"
    Skopeo(tmp_path).archive(f"{site.repository}:single-docker", archive, tag, site.login)
    pushed, docker = f"{site.repository}-pushed:latest", Docker(dockerd, tmp_path)
    docker.push(pushed, archive, tag, site.login)
    assert docker.pull(pushed, site.login) == Skopeo(tmp_path).pull(pushed, site.login)


@pytest.mark.parametrize("site", ["public"], indirect=True)
def test_a_client_without_lists_in_accept_gets_ids(site: Site) -> None:
    [image] = site.pushed["single-oci"].images
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"{site.nginx.url}/v2/{SCOPE}/manifests/single-oci", timeout=60)
    found = [layer["rbtorrent_id"] for layer in answer.json()["layers"]]
    assert found == [rbtorrent(layer.digest) for layer in image.layers]
