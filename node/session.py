"""The node's BitTorrent session. libtorrent's handles and alerts are used here only."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import libtorrent

from node.metainfo import Metainfo

log = logging.getLogger(__name__)

_PUBLIC, _LOCAL = 0, 2
"""Peer classes: all peers, and those in private ranges, which are exempt from session-wide limits."""
_FIRST_PRIORITY = 7
_WAIT_MS = 500
_INVALID_HANDLE = RuntimeError
"""The error that libtorrent raises for a removed torrent."""

_alerts = libtorrent.alert.category_t
SETTINGS: dict[str, object] = {
    "user_agent": "docker-torrents",
    "alert_mask": _alerts.error_notification
    | _alerts.status_notification
    | _alerts.storage_notification
    | _alerts.piece_progress_notification,
    "alert_queue_size": 50_000,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    # One uTP peer among five throttles TCP.
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "mixed_mode_algorithm": libtorrent.bandwidth_mixed_algo_t.prefer_tcp,
    "allow_multiple_connections_per_ip": True,
    "apply_ip_filter_to_trackers": False,
    "unchoke_slots_limit": -1,
    "connection_speed": 200,
    "connections_limit": 2000,
    "torrent_connect_boost": 50,
    "num_want": 100,
    "initial_picker_threshold": 0,
    "piece_timeout": 5,
    "request_timeout": 10,
    # Blocks requested in advance queue at the peer: at the end of a layer, for seconds.
    "request_queue_time": 1,
    # With an upload limit each write, those of a handshake too, waits for a tick. Costs 0.3 % of a core.
    "tick_interval": 20,
    # All of them wake up for every block: ten cost more than they save.
    "aio_threads": 2,
    "min_reconnect_time": 5,
    "listen_queue_size": 500,
    "active_seeds": -1,
    "active_limit": -1,
    "file_pool_size": 100,
    "stop_tracker_timeout": 2,
}
MAX_CONNECTIONS = 50
"""Connections of one torrent."""


class TorrentListener:
    """Callbacks for events of a torrent, which do nothing here. None is called after `Session.remove` has
    returned.

    Called from the session's thread, which holds its lock: return quickly, and call no method of Session.
    """

    def on_checked(self, pieces: Sequence[bool]) -> None:
        """The file was checked; `pieces` are the pieces it has."""

    def on_piece(self, piece: int) -> None:
        """A piece is complete and has its hash; it may not be in the file yet."""

    def on_piece_read(self, piece: int, data: bytes | None) -> None:
        """The result of `read_piece`, None if it failed."""

    def on_hash_failed(self, piece: int) -> None:
        """A piece did not have its hash."""

    def on_flushed(self) -> None:
        """A `flush` is complete."""

    def on_failed(self, why: str) -> None:
        """The torrent stopped: the file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class TorrentStatus:
    """A torrent at one moment; bytes are counted since it was added."""

    peers: int
    downloaded: int
    uploaded: int


class Torrent:
    """One torrent of the session. After its removal the methods do nothing."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def add_piece(self, piece: int, data: bytes) -> None:
        """Add a piece that was fetched elsewhere. It replaces blocks that a peer sent."""
        with suppress(_INVALID_HANDLE):
            self.handle.add_piece(piece, data, libtorrent.add_piece_flags_t.overwrite_existing)

    def read_piece(self, piece: int) -> None:
        """Start reading a complete piece; `on_piece_read` follows."""
        with suppress(_INVALID_HANDLE):
            self.handle.read_piece(piece)

    def flush(self) -> None:
        """Start writing everything to the file; `on_flushed` follows."""
        with suppress(_INVALID_HANDLE):
            self.handle.flush_cache()

    def connect(self, ip: str, port: int) -> None:
        """Connect to a peer, unless it is connected already."""
        with suppress(_INVALID_HANDLE):
            self.handle.connect_peer((ip, port))

    def connect_now(self) -> None:
        """Open the connections that `connect` named: libtorrent does so once a second, and when it resumes.

        This ends existing connections, so call it before there are any.
        """
        with suppress(_INVALID_HANDLE):
            self.handle.pause()
            self.handle.resume()

    def available(self) -> list[int]:
        """Return for each piece how many connected peers have it; empty when this node has everything."""
        with suppress(_INVALID_HANDLE):
            return list(self.handle.piece_availability())
        return []

    def prioritize(self, piece: int) -> None:
        """Request a piece before others."""
        with suppress(_INVALID_HANDLE):
            self.handle.piece_priority(piece, _FIRST_PRIORITY)

    def status(self) -> TorrentStatus:
        """Return the current status."""
        with suppress(_INVALID_HANDLE):
            status = self.handle.status(0)
            return TorrentStatus(status.num_peers, status.total_payload_download, status.total_payload_upload)
        return TorrentStatus(0, 0, 0)


class Session:
    """A libtorrent session and the thread that dispatches its alerts.

    `listen` is `host:port`; port 0 means a free one, for a single address only. Limits are bytes per second,
    0 for none. With `peers`, only addresses in these networks are peers. Raises OSError if it cannot listen
    on the address.
    """

    def __init__(
        self,
        listen: str,
        *,
        upload_limit: int = 0,
        download_limit: int = 0,
        peers: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self.node = secrets.token_hex(16)
        """This session's name in swarm calls; peers do not know it."""
        settings: Any = {**SETTINGS, "listen_interfaces": listen}
        self._session = libtorrent.session(settings)
        self._listeners: dict[Any, TorrentListener] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        for peer_class in (_PUBLIC, _LOCAL):
            limits = self._session.get_peer_class(peer_class)
            limits["upload_limit"], limits["download_limit"] = upload_limit, download_limit
            self._session.set_peer_class(peer_class, limits)
        if peers:
            self._session.set_ip_filter(_ip_filter(peers))
        self._alert_thread = threading.Thread(
            target=self._dispatch_alerts, name="torrent alerts", daemon=True
        )
        self._alert_thread.start()
        if not self._session.is_listening():
            self.close()
            raise OSError(f"cannot listen for peers at {listen}")

    @property
    def port(self) -> int:
        """The port on which peers connect."""
        return int(self._session.listen_port())

    def add(
        self, metainfo: Metainfo, folder: Path, listener: TorrentListener, *, verified: bool = False
    ) -> Torrent:
        """Start a torrent whose file is in `folder`. The file is checked unless it is `verified`."""
        parameters = libtorrent.load_torrent_buffer(metainfo.data)
        parameters.save_path = str(folder)
        parameters.max_connections = MAX_CONNECTIONS
        flags = libtorrent.torrent_flags
        parameters.flags &= ~(flags.auto_managed | flags.paused)
        parameters.flags |= flags.duplicate_is_error
        if verified:
            parameters.flags |= flags.seed_mode
        # The pump waits for the lock meanwhile: the listener misses no alert.
        with self._lock:
            handle = self._session.add_torrent(parameters)
            self._listeners[handle] = listener
        return Torrent(handle)

    def remove(self, torrent: Torrent) -> None:
        """End a torrent, and notify its trackers."""
        handle = torrent.handle
        with self._lock:
            known = self._listeners.pop(handle, None)
        if known is not None:
            self._session.remove_torrent(handle)

    def listen(self, torrent: Torrent, listener: TorrentListener) -> None:
        """Replace the listener of a torrent."""
        with self._lock:
            self._listeners[torrent.handle] = listener

    def close(self) -> None:
        """End all torrents and the session. May be called twice."""
        if self._closing.is_set():
            return
        self._session.pause()
        self._closing.set()
        self._alert_thread.join()
        with self._lock:
            self._listeners.clear()
        # Its destructor waits for its threads and for the trackers, the latter for stop_tracker_timeout.
        del self._session

    def _dispatch_alerts(self) -> None:
        while not self._closing.is_set():
            if self._session.wait_for_alert(_WAIT_MS) is None:
                continue
            for alert in self._session.pop_alerts():
                try:
                    self._dispatch(alert)
                except Exception:
                    log.exception(
                        "torrent alert failed with an internal error alert=%s", type(alert).__name__
                    )

    def _dispatch(self, alert: Any) -> None:
        handle = getattr(alert, "handle", None)
        # Held until the listener returns: `remove` waits, and later alerts are of another torrent.
        with self._lock:
            if handle is not None and (listener := self._listeners.get(handle)) is not None:
                self._call_listener(listener, alert)

    @staticmethod
    def _call_listener(listener: TorrentListener, alert: Any) -> None:
        match type(alert).__name__:
            case "piece_finished_alert":
                listener.on_piece(alert.piece_index)
            case "read_piece_alert":
                listener.on_piece_read(alert.piece, None if alert.error.value() else bytes(alert.buffer))
            case "torrent_checked_alert":
                listener.on_checked(alert.handle.status(libtorrent.status_flags_t.query_pieces).pieces)
            case "hash_failed_alert":
                listener.on_hash_failed(alert.piece_index)
            case "cache_flushed_alert":
                listener.on_flushed()
            case "file_error_alert" | "torrent_error_alert":
                listener.on_failed(alert.error.message())


def _ip_filter(networks: Sequence[IPv4Network | IPv6Network]) -> Any:
    blocked = 1
    rules = libtorrent.ip_filter()
    rules.add_rule("0.0.0.0", "255.255.255.255", blocked)  # noqa: S104 - a range, not an address to bind
    rules.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", blocked)
    for network in networks:
        rules.add_rule(str(network[0]), str(network[-1]), 0)
    return rules
