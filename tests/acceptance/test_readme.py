"""The README's first use, run as written, with a real registry and a real torrent client."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml

from tests.installation import PROGRAM
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.process import (
    bound_to_parent,
    child_environment,
    free_port,
    listening,
    require,
    running,
)
from tests.servers.push import MANIFEST, push_image
from tests.servers.registry import start_registry
from tests.servers.waiting import comes_true

README = Path(__file__).parents[2] / "README.md"
COMPOSE = Path(__file__).parents[2] / "deploy/compose/registry.yml"
INSTALLED = "/opt/docker-torrents/.venv/bin"


def blocks(language: str) -> list[str]:
    """Return the blocks in this language of the section on first use."""
    section = README.read_text().partition("\n## First use")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@contextmanager
def mirror_of(folder: Path, registry: str, service: str, config: str) -> Iterator[None]:
    """Run the mirror with the configuration of a machine, which takes the place of the daemon's."""
    port, peer_port = free_port(), free_port()
    config = config.replace("registry.example.com", registry).replace("proto: https", "proto: http")
    config = config.replace("torrents.example.com:10050", service)
    config += (
        f"    port: {port}\n    peer_host: 127.0.0.1\n    peer_port: {peer_port}\n"
        f"    cache_dir: {folder}/cache\n    keep_free: 0\n"
    )
    (folder / "config.yaml").write_text(config)
    argv = [PROGRAM, "-c", folder / "config.yaml", "mirror"]
    with running(argv, ready=listening(port), log=folder / "mirror.log"):
        yield


def test_the_commands_of_the_first_use_work_as_written(tmp_path: Path) -> None:
    require("aria2c", "aria2")
    require("curl", "curl")
    install, prepare, daemon, download, grant, mirror, prefetch = blocks("sh")
    make, pip, path = install.splitlines()
    assert make == f"python3 -m venv {INSTALLED.removesuffix('/bin')}"
    assert pip == f"{INSTALLED}/pip install ."
    path = path.replace(INSTALLED, str(PROGRAM.parent))
    here = f"127.0.0.1:{(port := free_port())}"

    def typed(*commands: str) -> str:
        lines = "\n".join([path, *commands]).replace("torrents.example.com:10050", here)
        ended = subprocess.run(
            bound_to_parent(["bash", "-e", "-o", "pipefail", "-c", lines]),
            cwd=tmp_path,
            env=child_environment({"PATH": "/usr/bin:/bin"}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    with start_registry(tmp_path / "registry") as registry:
        image = push_image(
            registry, "library/ubuntu", "22.04", [layer_bytes(50_000, 1), layer_bytes(3000, 2)]
        )
        config = blocks("yaml")[0].replace("registry.example.com", registry.netloc)
        config = config.replace("proto: https", "proto: http").replace("torrents.example.com:10050", here)
        config = config.replace("application:\n", f"application:\n    host: 127.0.0.1\n    port: {port}\n")
        (tmp_path / "config.yaml").write_text(config)

        printed = typed(prepare)
        assert "checked 4, failed 0, skipped 3" in printed
        assert "would queue 2 layers" in printed
        assert "queued 2 layers" in printed
        assert "brewed 2, failed 0, waiting 0" in printed
        assert len(re.findall(r"rbtorrent:[0-9a-f]{40}", printed)) == 2

        assert daemon.strip() == "docker_torrents -c config.yaml"
        argv = [PROGRAM, "-c", tmp_path / "config.yaml"]
        with running(argv, ready=listening(port), log=tmp_path / "daemon.log"):
            digests = typed(download).splitlines()[-1].split()
            assert digests[0] == digests[1] == str(image.layers[0].digest).removeprefix("sha256:")
            assert typed(grant).splitlines()[-1] == "granted 1, already granted 0"

            assert mirror.strip() == "docker_torrents -c config.yaml mirror"
            with mirror_of(tmp_path, registry.netloc, here, blocks("yaml")[2]):
                printed = typed(prefetch.replace("--engine containerd", "--engine containerd --print"))
            assert "cache: 2 layers" in printed
            assert "certs.d" in printed


@pytest.mark.parametrize("example", ["README", "compose"])
def test_the_examples_of_an_endpoint_send_pushed_manifests_and_no_pulls(tmp_path: Path, example: str) -> None:
    text = blocks("yaml")[1] if example == "README" else COMPOSE.read_text()
    [endpoint] = yaml.safe_load(text)["notifications"]["endpoints"]
    with start_http_server() as receiver:
        receiver.on("/v0/event", replying(200, b"OK"))

        def events() -> list[tuple[str, str]]:
            bodies = [json.loads(request.body) for request in receiver.requests]
            sent = [event for body in bodies for event in body["events"]]
            return [(event["action"], event["target"]["digest"]) for event in sent]

        with start_registry(
            tmp_path, notifications=[{**endpoint, "url": f"{receiver.url}/v0/event"}]
        ) as registry:
            pushed = []
            accept = {"Accept": MANIFEST["docker"]}
            for tag in ("v1", "v2"):
                image = push_image(registry, "library/ubuntu", tag, [layer_bytes(3000, len(pushed))])
                pushed.append(("push", image.digest))
                blob = f"blobs/{image.layers[0].digest}"
                for path in (f"manifests/{tag}", f"manifests/{image.digest}", blob):
                    requests.get(
                        f"{registry.url}/v2/library/ubuntu/{path}", headers=accept, timeout=60
                    ).raise_for_status()
            # Events arrive in their order.
            assert comes_true(lambda: pushed[-1] in events())
    # A receiver that is slow for a moment gets an event again.
    assert list(dict.fromkeys(events())) == pushed
    assert receiver.requests[0].headers["Authorization"] == "secretkey"
