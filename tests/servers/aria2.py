"""aria2, a third-party BitTorrent client, for downloads and seeding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import ServerProcess, free_port, listening, require, run

# aria2 uses only the peers and URLs of the torrent: no DHT, no peer exchange, no local discovery.
ALONE = (
    "--no-conf=true",
    "--enable-dht=false",
    "--enable-dht6=false",
    "--enable-peer-exchange=false",
    "--bt-enable-lpd=false",
    "--async-dns=false",
    "--disable-ipv6=true",
    "--interface=127.0.0.1",
)
PLAIN = (
    "--file-allocation=none",
    "--summary-interval=0",
    "--console-log-level=notice",
    "--show-console-readout=false",
    "--follow-torrent=false",
)


def download(
    torrent: Path,
    folder: Path,
    *,
    timeout: float = 240.0,
    web_seeds: Sequence[str] = (),
    trackers: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Path:
    """Download a single-file torrent into the new folder `folder`. Returns the file.

    `web_seeds` and `trackers` (URLs) are added to those in the torrent. aria2 has verified every piece
    when it exits. Raises ServerMissing; ServerFailed if it fails, or needs more than `timeout` seconds.
    """
    binary = require("aria2c", "aria2")
    folder.mkdir(parents=True)
    argv: list[str | Path] = [
        binary,
        *ALONE,
        *PLAIN,
        "--seed-time=0",
        f"--listen-port={free_port()}",
        f"--dir={folder}",
        *_tracker_option(trackers),
        *options,
        f"--torrent-file={torrent}",
        *web_seeds,
    ]
    run(argv, log=folder.parent / f"{folder.name}.aria2.log", timeout=timeout)
    [file] = folder.iterdir()
    return file


@contextmanager
def seeding(
    torrent: Path, folder: Path, *, log: Path, trackers: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """Seed the torrent whose file is in `folder` already, for the length of a `with` block.

    It is ready when it listens; its announce to the tracker may come a moment later.
    """
    port = free_port()
    argv: list[str | Path] = [
        require("aria2c", "aria2"),
        *ALONE,
        *PLAIN,
        "--check-integrity=true",
        "--seed-ratio=0.0",
        f"--listen-port={port}",
        f"--dir={folder}",
        *_tracker_option(trackers),
        *options,
        f"--torrent-file={torrent}",
    ]
    process = ServerProcess(argv, ready=listening(port), log=log)
    process.start()
    try:
        yield process
    finally:
        process.stop()


def _tracker_option(trackers: Sequence[str]) -> list[str]:
    return [f"--bt-tracker={','.join(trackers)}"] if trackers else []
