"""libtorrent, the BitTorrent library of qBittorrent and others, as a client in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libtorrent

from tests.servers.process import free_port

# It uses only the peers and URLs of the torrent, on 127.0.0.1: no DHT, no discovery. Its protection against
# redirects to private addresses (ssrf_mitigation) keeps its default: on.
ALONE = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": libtorrent.alert.category_t.error_notification
    | libtorrent.alert.category_t.tracker_notification
    | libtorrent.alert.category_t.peer_notification,
}


@dataclass(frozen=True)
class Client:
    """A session whose files are in `folder`."""

    session: Any
    folder: Path

    def add(self, torrent: bytes) -> Any:
        """Start a torrent; existing files are checked first. Return its handle."""
        parameters = libtorrent.load_torrent_buffer(torrent)
        parameters.save_path = str(self.folder)
        # Started now, whatever the queue.
        parameters.flags &= ~(libtorrent.torrent_flags.paused | libtorrent.torrent_flags.auto_managed)
        return self.session.add_torrent(parameters)

    def messages(self) -> list[str]:
        """Return the messages since the last call, for a test that fails."""
        return [alert.message() for alert in self.session.pop_alerts()]


def done(handle: Any) -> bool:
    """Return whether every piece is present and verified."""
    return bool(handle.status().is_seeding)


@contextmanager
def start_libtorrent(folder: Path, *, host: str = "127.0.0.1") -> Iterator[Client]:
    """Run a session that downloads into, and seeds from, `folder`, and listens at `host`."""
    folder.mkdir(parents=True, exist_ok=True)
    session = libtorrent.session({**ALONE, "listen_interfaces": f"{host}:{free_port()}"})
    try:
        yield Client(session, folder)
    finally:
        session.pause()
        for handle in session.get_torrents():
            session.remove_torrent(handle)
        # Its destructor waits for the threads.
        del session
