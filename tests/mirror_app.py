"""The mirror's app in front of a registry, for tests: without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config.config import Config
from node.blobs import MAX_BODIES
from node.service import Node
from tests.servers.process import free_port
from tests.wsgi import Answer, App, call


@dataclass(frozen=True)
class TestedMirror:
    """A mirror's app and its parts."""

    __test__ = False

    app: App
    node: Node

    def get(self, path: str, *, chunks: int | None = None, **headers: str) -> Answer:
        """Return the answer to a GET; `_` in a header's name stands for `-`."""
        return self.ask("GET", path, chunks=chunks, **headers)

    def head(self, path: str, **headers: str) -> Answer:
        """Return the answer to a HEAD."""
        return self.ask("HEAD", path, **headers)

    def ask(self, method: str, path: str, *, chunks: int | None = None, **headers: str) -> Answer:
        """Return the answer to any method. With `chunks` the client leaves after that many parts of the body."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return call(self.app, method, path, headers=sent, chunks=chunks)


def mirror_config(netloc: str, folder: Path, **mirror: Any) -> Config:
    """Return the configuration of a mirror of the registry at `netloc` with its cache in `folder`."""
    section = {
        "cache_dir": folder / "cache",
        "keep_free": 0,
        "peer_host": "127.0.0.1",
        "peer_port": free_port(),
        "min_size": 0,
        **mirror,
    }
    return Config.model_validate({"docker_registry": {"host": netloc, "proto": "http"}, "mirror": section})


@contextmanager
def open_node(config: Config, max_bodies: int = MAX_BODIES) -> Iterator[Node]:
    """Yield a Node, and close it at the end of the block."""
    node = Node(config, max_bodies)
    try:
        yield node
    finally:
        node.close()


@contextmanager
def mirror_of(netloc: str, folder: Path, **mirror: Any) -> Iterator[TestedMirror]:
    """Yield a mirror of the registry at `netloc`; `mirror` are keys of its section of the configuration."""
    with open_node(mirror_config(netloc, folder, **mirror)) as node:
        yield TestedMirror(node.app, node)
