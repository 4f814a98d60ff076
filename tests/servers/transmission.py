"""Transmission, a third-party BitTorrent client: its daemon, through RPC (docs/rpc-spec.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.servers.process import ServerProcess, free_port, listening, require

_SESSION_ID = "X-Transmission-Session-Id"

# It uses only the peers and URLs of the torrent, on 127.0.0.1: no DHT, no peer exchange, no discovery.
ALONE = {
    "bind-address-ipv4": "127.0.0.1",
    "bind-address-ipv6": "::1",
    "dht-enabled": False,
    "lpd-enabled": False,
    "pex-enabled": False,
    "utp-enabled": False,
    "port-forwarding-enabled": False,
    "rpc-bind-address": "127.0.0.1",
    "rpc-authentication-required": False,
    "rpc-host-whitelist-enabled": False,
}


@dataclass
class Transmission:
    """A running daemon, whose files are in `folder`."""

    folder: Path
    rpc_port: int
    process: ServerProcess
    _session: str = field(default="", repr=False)

    def add(self, torrent: bytes) -> int:
        """Start a torrent; existing files are checked first. Return its number."""
        arguments = {"metainfo": base64.b64encode(torrent).decode()}
        added: int = self._call("torrent-add", arguments)["torrent-added"]["id"]
        return added

    def state(self, number: int) -> dict[str, Any]:
        """Return the daemon's state of a torrent."""
        fields = ["percentDone", "leftUntilDone", "errorString", "status", "trackerStats", "webseeds"]
        found: dict[str, Any] = self._call("torrent-get", {"ids": [number], "fields": fields})["torrents"][0]
        return found

    def done(self, number: int) -> bool:
        """Return whether every piece is present and verified."""
        state = self.state(number)
        return bool(state["percentDone"] == 1 and state["leftUntilDone"] == 0)

    def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"method": method, "arguments": arguments})
        url = f"http://127.0.0.1:{self.rpc_port}/transmission/rpc"
        for _ in range(2):
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(url, body, headers={_SESSION_ID: self._session}, timeout=60)
            if answer.status_code != requests.codes.conflict:
                break
            # Protection against CSRF: the first call learns the required session id.
            self._session = answer.headers[_SESSION_ID]
        answer.raise_for_status()
        reply = answer.json()
        if reply["result"] != "success":
            raise ValueError(f"Transmission refuses {method}: {reply['result']}")
        arguments_back: dict[str, Any] = reply["arguments"]
        return arguments_back


@contextmanager
def start_transmission(folder: Path) -> Iterator[Transmission]:
    """Run a daemon that downloads into, and seeds from, `folder`/files. Raises ServerMissing, ServerFailed."""
    binary = require("transmission-daemon", "transmission-daemon")
    files = folder / "files"
    files.mkdir(parents=True)
    rpc_port, peer_port = free_port(), free_port()
    settings = {**ALONE, "download-dir": str(files), "rpc-port": rpc_port, "peer-port": peer_port}
    (folder / "settings.json").write_text(json.dumps(settings))
    process = ServerProcess(
        [binary, "--foreground", "--config-dir", folder, "--log-info"],
        ready=listening(rpc_port),
        log=folder / "transmission.log",
    )
    process.start()
    try:
        yield Transmission(files, rpc_port, process)
    finally:
        process.stop()
