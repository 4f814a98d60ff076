"""Lost torrents: reported by the web app, and brewed again by it or by an operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sql.engine import create_engine_for
from sql.tables import build_tables
from tests.installation import Installation
from tests.integration.sql.database import Database
from tests.old_service import OldService
from tests.servers.layers import layer_bytes
from tests.servers.process import free_port, listening
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import Registry


@pytest.fixture(params=["sqlite", "postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> Installation:
    """An installation on each engine in turn."""
    db = {"url": request.getfixturevalue("postgres_url")} if request.param == "postgresql" else {}
    return Installation(tmp_path, registry, application={"port": free_port()}, db=db)


@pytest.fixture
def url(installation: Installation) -> Iterator[str]:
    """The URL of the installation's web app."""
    port = installation.sections["application"]["port"]
    web = installation.process("web", ready=listening(port), name="web")
    web.start()
    yield f"http://127.0.0.1:{port}"
    web.stop()


def brewed(installation: Installation, registry: Registry, scope: str, number: int) -> PushedImage:
    image = push_image(registry, scope, "v1", [layer_bytes(1000, 1100 + seed) for seed in range(number)])
    installation.run("backfill", "repository", scope)
    assert installation.last_line("run", "brew") == f"brewed {number}, failed 0, waiting 0"
    return image


def test_the_web_app_queues_a_lost_torrent(
    installation: Installation, registry: Registry, scope: str, url: str
) -> None:
    [layer] = brewed(installation, registry, scope, 1).layers
    torrent = installation.torrent(layer.digest)
    content = torrent.read_bytes()
    torrent.unlink()

    lost = requests.get(f"{url}/v0/torrents/{scope}/{layer.digest}", timeout=60)
    assert (lost.status_code, lost.headers["Retry-After"]) == (404, "30")
    manifest = requests.get(f"{url}/v2/{scope}/manifests/v1", timeout=60).json()
    assert "rbtorrent_id" not in manifest["layers"][0]

    assert installation.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"
    assert torrent.read_bytes() == content
    assert requests.get(f"{url}/v0/torrents/{scope}/{layer.digest}", timeout=60).status_code == 200


def test_an_operator_searches_for_lost_torrents(
    installation: Installation, registry: Registry, scope: str
) -> None:
    image = brewed(installation, registry, scope, 5)
    torrents = {layer.digest: installation.torrent(layer.digest) for layer in image.layers}
    contents = {digest: torrent.read_bytes() for digest, torrent in torrents.items()}
    for layer in image.layers[:2]:
        torrents[layer.digest].unlink()

    assert (
        installation.last_line("queue", "retry", "--lost") == "queued again 2, looked up 5 torrents, failed 0"
    )
    assert installation.json("queue", "status")["waiting"]["backfilled"] == 2
    assert installation.last_line("run", "brew") == "brewed 2, failed 0, waiting 0"
    assert {digest: torrent.read_bytes() for digest, torrent in torrents.items()} == contents


def test_a_brewed_layer_is_brewed_again_by_its_digest(
    installation: Installation, registry: Registry, scope: str
) -> None:
    [layer] = brewed(installation, registry, scope, 1).layers
    torrent = installation.torrent(layer.digest)
    content = torrent.read_bytes()
    # A disk that was full may have left this.
    torrent.write_bytes(content[:-5])

    words = ("queue", "retry", "--digest", layer.digest)
    assert installation.last_line(*words) == "queued again 1, manifests 0"
    assert installation.json("show", layer.digest)["state"] == "waiting"
    # A waiting layer is not queued again.
    assert installation.run(*words, check=False).returncode == 1
    assert installation.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"
    assert torrent.read_bytes() == content


def test_an_id_of_the_older_service_is_kept(installation: Installation, scope: str) -> None:
    installation.init_db()
    url = installation.sections["db"].get("url") or f"sqlite:///{installation.state}/docker_torrents.sqlite"
    engine = create_engine_for(url=url)
    digest = OldService(Database(engine, build_tables())).add("a layer")
    engine.dispose()
    assert installation.last_line("backfill", "legacy").startswith("took over 1 of 1 ids")
    known = installation.json("show", digest)

    ended = installation.run("queue", "retry", "--digest", digest, check=False)

    assert ended.returncode == 1
    assert "keeps its id from the older service" in ended.stderr
    assert (
        installation.last_line("queue", "retry", "--lost") == "queued again 0, looked up 0 torrents, failed 0"
    )
    assert installation.json("show", digest) == known
