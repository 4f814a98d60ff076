"""Unmodified container engines pull through the mirror, by tag and by digest, public and private images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.acceptance.engines import Login, PullFailed
from tests.acceptance.guarded_registry import (
    ENGINES,
    KINDS,
    SCOPE,
    TAGS,
    Pushed,
    push_all,
    start_guarded_registry,
)
from tests.acceptance.through_mirror import ThroughMirror
from tests.mirror_process import MirrorProcess, start_mirror
from tests.servers.dockerd import Dockerd, start_dockerd


@dataclass(frozen=True)
class Site:
    """A mirror of a registry with the images of `pushed`."""

    mirror: MirrorProcess
    login: Login | None
    pushed: dict[str, Pushed]


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    with start_guarded_registry(request.param, folder) as guarded:
        # A layer above 1 MiB, for which a torrent is asked for, and a small one.
        pushed = push_all(guarded, [2_000_000, 100])
        with start_mirror(folder / "mirror", guarded.registry) as mirror:
            yield Site(mirror, guarded.login, pushed)


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with start_dockerd(tmp_path_factory.mktemp("dockerd")) as daemon:
        yield daemon


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, site: Site) -> Iterator[ThroughMirror]:
    needs_daemon = request.param in ("docker", "containerd")
    daemon: Dockerd | None = request.getfixturevalue("dockerd") if needs_daemon else None
    # podman takes only short paths.
    with TemporaryDirectory(prefix="pull-") as folder:
        yield ThroughMirror(request.param, site.mirror, SCOPE, Path(folder), daemon)


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


@pytest.mark.parametrize("site", ["public"], indirect=True)
def test_an_image_larger_than_the_cache_is_pulled(site: Site, tmp_path: Path) -> None:
    size = 3_000_000  # of two layers of 2 MB one is kept
    with start_mirror(tmp_path / "mirror", site.mirror.registry, cache_size=size) as mirror:
        skopeo = ThroughMirror("skopeo", mirror, SCOPE, tmp_path)
        assert skopeo.pull(":multi-oci", None) == site.pushed["multi-oci"].digest
        assert 0 < mirror.status()["cache"]["bytes"] <= size
