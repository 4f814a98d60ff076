"""`make demo`: an image is pushed to a real registry, brewed, and downloaded by a torrent client.

First an image that is already in the registry (backfill, then brew), then the daemon (a push, its
notification, the manifest with ids, the .torrent), and finally two machines that pull through their mirrors.
Everything runs on 127.0.0.1, in a folder that is removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests

from demo.image import FIRST_BYTES, write_layers
from demo.mirrors import print_table, pull_on_two_machines
from tests.servers.aria2 import download
from tests.servers.process import ServerProcess, child_environment, free_port, listening
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import Registry, start_registry

PROGRAM = Path(sys.executable).with_name("docker_torrents")
EVENT_KEY = "demo-events"
TIMEOUT_SECONDS = 120.0

CONFIG = """\
application:
    host: 127.0.0.1
    port: {port}
    public_url: http://127.0.0.1:{port}
    event_authorization: {event_key}
    state_dir: {folder}/state
docker_registry:
    proto: http
    host: {registry}
torrents:
    trackers: []
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="docker-torrents-demo-") as name:
        folder = Path(name)
        port = free_port()
        events = {
            "url": f"http://127.0.0.1:{port}/v0/event",
            "headers": {"Authorization": [EVENT_KEY]},
            "timeout": "5s",
            "backoff": "200ms",
        }
        with start_registry(_new(folder / "registry"), notifications=[events]) as registry:
            _say(f"a docker/distribution registry runs at {registry.url}")
            _say("two images are made of this machine's own files")
            layers = write_layers(_new(folder / "layers"))
            image = push_image(registry, "demo/old", "v1", layers[: len(FIRST_BYTES)])
            _say_image(image)
            _backfill(folder, registry, port, image)
            _daemon(folder, registry, port, layers[len(FIRST_BYTES) :])
    _say("done, nothing is still running")
    return 0


def _backfill(folder: Path, registry: Registry, port: int, image: PushedImage) -> None:
    _title("1. An image that is already in the registry: backfill, then brew")
    config = _config(folder, registry, port)
    _run(config, "check")
    _run(config, "backfill", "repository", image.scope)
    _table(_run(config, "run", "brew"))
    _run(config, "show", f"{image.scope}:{image.tag}")
    layer = max(image.layers, key=lambda layer: layer.size)
    _, _, hex_digest = layer.digest.partition(":")
    torrent = folder / "state" / "metainfo" / hex_digest[:2] / f"{hex_digest}.torrent"
    web_seed = f"{registry.url}/v2/{image.scope}/blobs/{layer.digest}"
    _say(f"aria2 downloads {layer.digest[:19]}… with its .torrent, the registry is the web seed")
    _compare(download(torrent, folder / "from-registry", web_seeds=[web_seed]), layer.digest)


def _daemon(folder: Path, registry: Registry, port: int, layers: list[Path]) -> None:
    _title("2. The daemon: push, notification, brew, manifest with ids, torrent")
    config = _config(folder, registry, port)
    _run(config, "role", "grant", "demo/*")
    daemon = ServerProcess(
        [PROGRAM, "-c", config], ready=listening(port), log=folder / "daemon.log", grace=10.0
    )
    daemon.start()
    try:
        _say("the daemon runs: web app and scheduler")
        image = push_image(registry, "demo/new", "v1", layers)
        pushed = time.monotonic()
        _say_image(image)
        manifest = _wait_for("ids of all layers", lambda: _with_ids(port, image))
        _say(f"all layers have ids {time.monotonic() - pushed:.1f} s after the push")
        print(json.dumps(manifest, indent=2))
        layer = min(manifest["layers"], key=lambda layer: layer["size"])
        torrent = folder / "layer.torrent"
        torrent.write_bytes(_get(f"http://127.0.0.1:{port}/v0/torrents/{image.scope}/{layer['digest']}"))
        _say(
            f"aria2 downloads {layer['digest'][:19]}… with the .torrent from /v0/torrents, "
            "the app is the web seed"
        )
        _compare(download(torrent, folder / "from-app"), layer["digest"])
        _two_machines(folder, registry, port, image)
    except BaseException:
        sys.stdout.flush()
        sys.stderr.write((folder / "daemon.log").read_text())
        raise
    finally:
        daemon.stop()


def _two_machines(folder: Path, registry: Registry, port: int, image: PushedImage) -> None:
    _title("3. Two machines pull through their mirrors, without a tracker")
    rows = pull_on_two_machines(folder, registry.netloc, port, f"{image.scope}:{image.tag}")
    print_table(rows)
    _, second = rows[1]
    if second["peers"] * 2 < sum(second.values()):
        raise SystemExit("demo: most of the second machine's bytes did not come from the first")


def _with_ids(port: int, image: PushedImage) -> dict[str, Any] | None:
    """Return the manifest if every layer in it has its rbtorrent id."""
    manifest: dict[str, Any] = json.loads(
        _get(f"http://127.0.0.1:{port}/v2/{image.scope}/manifests/{image.tag}")
    )
    return manifest if all("rbtorrent_id" in layer for layer in manifest["layers"]) else None


def _get(url: str) -> bytes:
    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    return answer.content


def _config(folder: Path, registry: Registry, port: int) -> Path:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(port=port, event_key=EVENT_KEY, folder=folder, registry=registry.netloc))
    return config


def _run(config: Path, *words: str) -> str:
    """Run a command of docker_torrents, show its output, and return its log."""
    print(f"$ docker_torrents {' '.join(words)}", flush=True)
    ended = subprocess.run(
        [PROGRAM, "-c", config, *words],
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(f"{ended.stderr}demo: docker_torrents {words[0]} ended with {ended.returncode}")
    return ended.stderr


def _table(log: str) -> None:
    """Print the layers in the log of a brew."""
    print(f"{'digest':<20} {'size':>12} {'pieces':>6}  {'rbtorrent id':<50} {'MB/s':>6}")
    for line in log.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        if "rbtorrent_id" in fields:
            speed = int(fields["size"]) / 1e6 / max(float(fields["seconds"]), 1e-3)
            print(
                f"{fields['digest'][:19]}… {int(fields['size']):>12} {fields['pieces']:>6}  "
                f"{fields['rbtorrent_id']:<50} {speed:>6.0f}"
            )


def _compare(file: Path, digest: str) -> None:
    with file.open("rb") as content:
        got = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
    if got != digest:
        raise SystemExit(f"demo: the download has {got}, the layer is {digest}")
    _say(f"{file.stat().st_size} bytes downloaded, their SHA-256 is the digest of the layer")


T = TypeVar("T")


def _wait_for(what: str, look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.1)
    raise SystemExit(f"demo: no {what} within {TIMEOUT_SECONDS:g} s")


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _say_image(image: PushedImage) -> None:
    size = sum(layer.size for layer in image.layers)
    _say(f"pushed {image.scope}:{image.tag}, {len(image.layers)} layers, {size / 1e6:.1f} MB")


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
