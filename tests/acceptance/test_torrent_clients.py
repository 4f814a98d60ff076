"""aria2, Transmission and libtorrent download torrents of `/v0/torrents` from web seeds and from each other.

Everything stays on 127.0.0.1: the torrents are private, and the clients do not search for peers.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libtorrent
import pytest
import requests

from tests.installation import Installation
from tests.mirror_process import start_mirror
from tests.servers import aria2
from tests.servers.layers import layer_bytes
from tests.servers.libtorrent_client import done, start_libtorrent
from tests.servers.opentracker import Tracker, start_opentracker
from tests.servers.process import free_port, listening
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import Registry, start_registry
from tests.servers.transmission import start_transmission
from tests.servers.waiting import comes_true

SCOPE = "tests/torrents"
SIZE = 3_000_001  # 46 pieces, the last of them short
SECONDS = 240.0
USER = ("puller", "let me in")


@dataclass
class Shop:
    """A registry with one image of one brewed layer, and its torrent from apps with these settings."""

    folder: Path
    registry: Registry
    image: PushedImage
    auth: tuple[str, str] | None = None

    @property
    def digest(self) -> str:
        return self.image.layers[0].digest

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    def installation(self, name: str, port: int, **torrents: object) -> Installation:
        brewer = {"brew_user": self.auth[0], "brew_password": self.auth[1]} if self.auth else {}
        return Installation(
            self.folder / name,
            self.registry,
            application={
                "port": port,
                "public_url": f"http://127.0.0.1:{port}",
                "state_dir": str(self.folder / "state"),
            },
            brewer=brewer,
            torrents=torrents,
        )

    @contextmanager
    def app(self, **torrents: object) -> Iterator[str]:
        """Yield the URL of an app so configured, which runs during the block."""
        port = free_port()
        name = f"app-{port}"
        web = self.installation(name, port, **torrents).process("web", ready=listening(port), name="web")
        web.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            web.stop()

    def torrent_of(self, app: str) -> bytes:
        """Return the .torrent from the app at this URL."""
        answer = requests.get(f"{app}/v0/torrents/{SCOPE}/{self.digest}", auth=self.auth, timeout=60)
        answer.raise_for_status()
        return answer.content

    @contextmanager
    def torrent(self, **torrents: object) -> Iterator[bytes]:
        """Yield the .torrent from an app with this configuration, which runs during the block."""
        with self.app(**torrents) as url:
            yield self.torrent_of(url)

    def is_whole(self, file: Path) -> bool:
        """Return whether this file exists and is the layer."""
        if not file.exists():
            return False
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == self.hex

    def put_layer(self, folder: Path) -> None:
        """Write the layer into a folder that a client will seed from."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.registry.blob_file(self.digest), folder / self.hex)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with _open_shop(tmp_path_factory.mktemp("shop"), None) as opened:
        yield opened


@pytest.fixture(scope="module")
def private_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with _open_shop(tmp_path_factory.mktemp("private"), USER) as opened:
        yield opened


@contextmanager
def _open_shop(folder: Path, auth: tuple[str, str] | None) -> Iterator[Shop]:
    (folder / "registry").mkdir()
    with start_registry(folder / "registry", htpasswd=dict([auth]) if auth else None) as registry:
        image = push_image(registry, SCOPE, "v1", [layer_bytes(SIZE, seed=7)], auth=auth)
        shop = Shop(folder, registry, image, auth)
        brewer = shop.installation("brewer", free_port())
        brewer.run("backfill", "repository", SCOPE)
        assert brewer.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"
        yield shop


def by_aria2(torrent: bytes, shop: Shop, folder: Path) -> bool:
    file = folder / "layer.torrent"
    file.write_bytes(torrent)
    return shop.is_whole(aria2.download(file, folder / "aria2", timeout=SECONDS))


def by_transmission(torrent: bytes, shop: Shop, folder: Path) -> bool:
    with start_transmission(folder / "transmission") as client:
        number = client.add(torrent)
        assert comes_true(lambda: client.done(number), timeout=SECONDS), client.state(number)
        # It may still be writing.
        return comes_true(lambda: shop.is_whole(client.folder / shop.hex))


def by_libtorrent(torrent: bytes, shop: Shop, folder: Path) -> bool:
    with start_libtorrent(folder / "libtorrent") as client:
        handle = client.add(torrent)
        assert comes_true(lambda: done(handle), timeout=SECONDS), client.messages()
        return comes_true(lambda: shop.is_whole(client.folder / shop.hex))


Download = Callable[[bytes, Shop, Path], bool]
CLIENTS = [by_aria2, by_transmission, by_libtorrent]


@pytest.mark.parametrize("download", CLIENTS)
def test_through_the_web_seed_at_this_app(shop: Shop, tmp_path: Path, download: Download) -> None:
    with shop.torrent(trackers=[]) as torrent:
        [seed] = libtorrent.load_torrent_buffer(torrent).url_seeds
        assert "/v0/layers/" in seed
        assert download(torrent, shop, tmp_path)


@pytest.mark.parametrize("download", CLIENTS)
def test_through_a_web_seed_at_the_registry(shop: Shop, tmp_path: Path, download: Download) -> None:
    at_the_registry = f"{shop.registry.url}/v2/{{scope}}/blobs/{{digest}}"
    with shop.torrent(trackers=[], web_seeds=[at_the_registry]) as torrent:
        assert download(torrent, shop, tmp_path)


@pytest.mark.parametrize("download", CLIENTS)
def test_through_this_app_from_a_registry_with_a_password(
    private_shop: Shop, tmp_path: Path, download: Download
) -> None:
    with private_shop.torrent(trackers=[]) as torrent:
        assert download(torrent, private_shop, tmp_path)


def test_the_torrent_of_a_private_registry_needs_the_password(private_shop: Shop) -> None:
    port = free_port()
    web = private_shop.installation("closed", port).process("web", ready=listening(port), name="web")
    web.start()
    try:
        url = f"http://127.0.0.1:{port}/v0/torrents/{SCOPE}/{private_shop.digest}"
        for auth in (None, ("puller", "wrong"), ("other", USER[1])):
            answer = requests.get(url, auth=auth, timeout=60)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert requests.get(url, auth=USER, timeout=60).status_code == 200
    finally:
        web.stop()


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    with start_opentracker(tmp_path / "tracker") as running:
        yield running


@contextmanager
def tracked(shop: Shop, tracker: Tracker) -> Iterator[tuple[bytes, str]]:
    """Yield a torrent with a tracker and without web seeds, and its info-hash, which the tracker serves."""
    with shop.torrent(trackers=[tracker.announce_url], web_seeds=[]) as torrent:
        parameters = libtorrent.load_torrent_buffer(torrent)
        assert parameters.url_seeds == []
        info_hash = str(parameters.ti.info_hashes().v1)
        tracker.allow(info_hash)
        yield torrent, info_hash


def seeded(tracker: Tracker, info_hash: str) -> Callable[[], bool]:
    """Return whether the tracker has a complete peer."""
    return lambda: tracker.peers(info_hash)[0] == 1


def test_from_aria2_to_libtorrent_through_the_tracker(shop: Shop, tracker: Tracker, tmp_path: Path) -> None:
    with tracked(shop, tracker) as (torrent, info_hash):
        file = tmp_path / "layer.torrent"
        file.write_bytes(torrent)
        shop.put_layer(tmp_path / "seed")
        with aria2.seeding(file, tmp_path / "seed", log=tmp_path / "seed.log"):
            assert comes_true(seeded(tracker, info_hash), timeout=SECONDS)
            assert by_libtorrent(torrent, shop, tmp_path)


def test_from_transmission_to_aria2_through_the_tracker(shop: Shop, tracker: Tracker, tmp_path: Path) -> None:
    with tracked(shop, tracker) as (torrent, info_hash), start_transmission(tmp_path / "seed") as seeder:
        shop.put_layer(seeder.folder)
        number = seeder.add(torrent)
        assert comes_true(lambda: seeder.done(number), timeout=SECONDS), seeder.state(number)
        assert comes_true(seeded(tracker, info_hash), timeout=SECONDS), seeder.state(number)
        assert by_aria2(torrent, shop, tmp_path)


def test_from_libtorrent_to_transmission_through_the_tracker(
    shop: Shop, tracker: Tracker, tmp_path: Path
) -> None:
    shop.put_layer(tmp_path / "seed" / "files")
    with (
        tracked(shop, tracker) as (torrent, info_hash),
        start_libtorrent(tmp_path / "seed" / "files") as seeder,
        start_transmission(tmp_path / "leech") as leecher,
    ):
        number = leecher.add(torrent)
        assert comes_true(lambda: tracker.peers(info_hash) == (0, 1), timeout=SECONDS)
        # Transmission never connects to 127.0.0.1. So it comes first, and its peer finds it at the tracker.
        seeder.add(torrent)
        assert comes_true(lambda: leecher.done(number), timeout=SECONDS), seeder.messages()
        assert comes_true(lambda: shop.is_whole(leecher.folder / shop.hex))


def test_from_a_mirror_to_each_client_through_the_tracker(
    shop: Shop, tracker: Tracker, tmp_path: Path
) -> None:
    with shop.app(trackers=[tracker.announce_url], web_seeds=[]) as url:
        torrent = shop.torrent_of(url)
        info_hash = str(libtorrent.load_torrent_buffer(torrent).ti.info_hashes().v1)
        tracker.allow(info_hash)
        with ExitStack() as mirrors:
            with start_transmission(tmp_path / "leech") as leecher:
                number = leecher.add(torrent)
                assert comes_true(lambda: tracker.peers(info_hash) == (0, 1), timeout=SECONDS)
                mirror = mirrors.enter_context(
                    start_mirror(tmp_path / "mirror", shop.registry, torrents_url=url)
                )
                layer = mirror.get(f"/v2/{SCOPE}/blobs/{shop.digest}").content
                assert hashlib.sha256(layer).hexdigest() == shop.hex
                assert comes_true(lambda: leecher.done(number), timeout=SECONDS), leecher.state(number)
            assert by_aria2(torrent, shop, tmp_path)
            assert by_libtorrent(torrent, shop, tmp_path)
            assert comes_true(lambda: mirror.status()["uploaded"] >= 3 * SIZE)


def test_a_tracker_without_the_torrent_returns_no_peers(shop: Shop, tracker: Tracker, tmp_path: Path) -> None:
    with shop.torrent(trackers=[tracker.announce_url], web_seeds=[]) as torrent:
        info_hash = str(libtorrent.load_torrent_buffer(torrent).ti.info_hashes().v1)
        shop.put_layer(tmp_path / "seed")
        with start_libtorrent_on(tmp_path / "seed", torrent) as messages:
            assert comes_true(lambda: "not authorized" in messages(), timeout=SECONDS), messages()
        assert tracker.peers(info_hash) == (0, 0)


@contextmanager
def start_libtorrent_on(folder: Path, torrent: bytes) -> Iterator[Callable[[], str]]:
    """Yield a client that has the layer, and a function that returns its messages."""
    said: list[str] = []
    with start_libtorrent(folder) as client:
        client.add(torrent)

        def messages() -> str:
            said.extend(client.messages())
            return "\n".join(said)

        yield messages
