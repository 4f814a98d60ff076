"""One machine of a swarm: reads from its standard input what to fetch, and says when it has it.

    http URL        with curl, over one connection, as container engines do
    torrent URL     the .torrent at that URL, with libtorrent, which then goes on giving to others
    rest            stop that, and forget the file

Each is answered by a line: `done` and the SHA-256 of the file, or `resting`. Ends with its input.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.servers.libtorrent_client import Client, done, start_libtorrent


def main(folder: Path) -> None:
    with start_libtorrent(folder, host="0.0.0.0") as client:
        print("ready", flush=True)
        for line in sys.stdin:
            what, _, url = line.strip().partition(" ")
            if what == "http":
                print("done", sha256_of(by_curl(url, folder / "layer")), flush=True)
            elif what == "torrent":
                print("done", sha256_of(by_torrent(url, client)), flush=True)
            else:
                rest(client)
                print("resting", flush=True)


def by_curl(url: str, file: Path) -> Path:
    subprocess.run(["curl", "--silent", "--show-error", "--fail", "--output", file, url], check=True)
    return file


def by_torrent(url: str, client: Client) -> Path:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(url, timeout=60)
        answer.raise_for_status()
    handle = client.add(answer.content)
    while not done(handle):
        time.sleep(0.02)
    return client.folder / str(handle.status().name)


def rest(client: Client) -> None:
    for handle in client.session.get_torrents():
        client.session.remove_torrent(handle)
    for file in client.folder.iterdir():
        file.unlink()


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
