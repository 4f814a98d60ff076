"""A real BitTorrent tracker: Debian's opentracker, which serves the info-hashes of its whitelist only."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import requests

from tests.servers.process import ServerFailed, ServerProcess, free_port, require
from tests.servers.waiting import comes_true

# opentracker, as root, changes its root to its folder and becomes this user; here it starts as that user.
USER = "nobody"
SETTLE_SECONDS = 30


@dataclass(frozen=True)
class Tracker:
    """A running tracker. `whitelist` is its file: an info-hash of 40 hex digits a line."""

    host: str
    port: int
    whitelist: Path
    process: ServerProcess

    @property
    def announce_url(self) -> str:
        """The URL for `announce` in a torrent."""
        return f"http://{self.host}:{self.port}/announce"

    def allow(self, *info_hashes: str) -> None:
        """Put info-hashes (40 hex digits) on the whitelist, and wait until they are served."""
        with self.whitelist.open("a") as file:
            file.writelines(f"{info_hash}\n" for info_hash in info_hashes)
        self.reload()
        if not comes_true(lambda: all(map(self.serves, info_hashes)), SETTLE_SECONDS):
            raise ServerFailed(self.process.argv, "does not take its whitelist", self.process.log)

    def reload(self) -> None:
        """Make it read its whitelist again, which happens a moment later."""
        self.process.send_signal(signal.SIGHUP)

    def serves(self, info_hash: str) -> bool:
        """Return whether it accepts announces of an info-hash: announces a peer that leaves at once.

        A leaving peer alone does not suffice: opentracker checks its whitelist only for starting ones.
        """
        came = self._announce(info_hash, "started")
        self._announce(info_hash, "stopped")
        return b"failure reason" not in came

    def peers(self, info_hash: str) -> tuple[int, int]:
        """Return how many peers of a torrent are complete, and how many are downloading (BEP 48)."""
        answer = requests.get(
            f"http://{self.host}:{self.port}/scrape?info_hash={quote(bytes.fromhex(info_hash))}", timeout=60
        )
        answer.raise_for_status()
        return _number(answer.content, b"8:complete"), _number(answer.content, b"10:incomplete")

    def _announce(self, info_hash: str, event: str) -> bytes:
        query = f"info_hash={quote(bytes.fromhex(info_hash))}&peer_id=-TESTS-0000000000000&event={event}"
        answer = requests.get(f"{self.announce_url}?{query}&port=1&left=1&numwant=0&compact=1", timeout=60)
        answer.raise_for_status()
        return answer.content


@contextmanager
def start_opentracker(
    folder: Path, info_hashes: Iterable[str] = (), *, host: str = "127.0.0.1"
) -> Iterator[Tracker]:
    """Run a tracker for these info-hashes (40 hex digits each). Raises ServerMissing, ServerFailed."""
    binary = require("opentracker", "opentracker")
    folder.mkdir(parents=True, exist_ok=True)
    whitelist = folder / "whitelist.txt"
    whitelist.write_text("")
    port = free_port()
    process = ServerProcess(
        [binary, "-i", host, "-p", str(port), "-P", str(port), "-d", folder, "-w", whitelist],
        ready=lambda: _answers(host, port),
        log=folder / "opentracker.log",
        user=USER,
    )
    process.start()
    try:
        tracker = Tracker(host, port, whitelist, process)
        tracker.allow(*info_hashes)
        yield tracker
    finally:
        process.stop()


def _answers(host: str, port: int) -> bool:
    """Return whether it answers a request. It listens before, but then SIGHUP would still end it."""
    try:
        requests.get(f"http://{host}:{port}/scrape", timeout=60)
    except requests.RequestException:
        return False
    return True


def _number(bencoded: bytes, key: bytes) -> int:
    _, found, rest = bencoded.partition(key + b"i")
    return int(rest[: rest.index(b"e")]) if found else 0
