"""Build the mirror from the configuration, and run it."""

from __future__ import annotations

import atexit
import logging
from contextlib import ExitStack
from functools import partial
from typing import Any

from core.clients import http_client
from core.config.config import Config
from core.config.mirror import Mirror
from core.errors import CannotListen
from core.http.tls import trusted_bundle
from core.listening import check_free
from core.logs import set_log_format, set_up_logging
from core.server import serve
from node.app import AnswerFailures, CountAnswers, Pulls, identify, new_app
from node.blobs import MAX_BODIES, Blobs
from node.cache import Cache
from node.downloads import Downloads
from node.metrics import Metrics
from node.operations import Operations
from node.proxy import RegistryProxy
from node.session import Session
from node.upstream import Upstream
from node.verdicts import Verdicts

log = logging.getLogger(__name__)

MAX_WAITING = 96
"""Requests of engines that wait for the registry at once."""

THREADS = MAX_WAITING + MAX_BODIES + 16
"""Requests at once: a silent registry and engines that stopped reading leave some for /ping and /healthz."""


class Node:
    """The parts of a running mirror: the cache, the torrent session, and the app in front of them.

    Raises CacheFailed if the cache cannot be used, CannotListen if the peers' port is taken.
    """

    def __init__(self, config: Config, max_bodies: int = MAX_BODIES) -> None:
        mirror, registry = config.mirror, config.docker_registry
        self._held = ExitStack()
        with ExitStack() as held:
            self.cache = Cache(mirror.cache_dir, mirror.cache_size, mirror.keep_free)
            held.callback(self.cache.close)
            session = _open_session(mirror)
            held.callback(session.close)
            http = http_client(config, registry.connect_timeout, registry.read_timeout)
            held.callback(http.close)
            upstream = Upstream(registry, mirror.torrents_url, http)
            held.callback(upstream.close)
            self.downloads = Downloads(
                self.cache, session, http, min_size=mirror.min_size, time_limit=mirror.time_limit
            )
            held.callback(self.downloads.close)
            self._held = held.pop_all()
        self.verdicts = Verdicts(upstream, mirror.torrents_off)
        blobs = Blobs(upstream, self.verdicts, self.downloads, mirror.time_limit, max_bodies)
        names = frozenset({registry.host, *mirror.registry_names})
        self.app = new_app()
        metrics = Metrics(self.cache, self.downloads)
        self.app.install(identify)
        self.app.install(CountAnswers(metrics.answers))
        self.app.install(AnswerFailures(lambda: upstream.registry_is_down))
        Pulls(RegistryProxy(upstream), blobs, names, MAX_WAITING).install(self.app)
        Operations(registry.host, upstream, self.cache, self.downloads, metrics).install(self.app)

    def close(self) -> None:
        """End the downloads, leave the swarms, release the cache. May be called twice."""
        self._held.close()


def run_mirror(config: Config, *, debug: bool) -> int:
    """Serve the mirror until SIGTERM. Return the exit status."""
    mirror = config.mirror
    # Report errors once, here: a worker that cannot start would be restarted again and again.
    trusted_bundle(config.tls.ca_file)
    # libtorrent would use the next port, at which other mirrors do not look for this one.
    check_free(mirror.peer_host, mirror.peer_port)
    Cache(mirror.cache_dir, mirror.cache_size, mirror.keep_free).close()
    # Only one process can own the cache and the peers' port: so only one worker is started.
    return serve(
        partial(_build_app, config, debug),
        mirror.host,
        mirror.port,
        threads=THREADS,
        replace_on_hangup=False,
    )


def _build_app(config: Config, debug: bool) -> Any:
    """Build the app in the worker. It is closed when the process ends."""
    set_up_logging(debug)
    set_log_format(config.application.log_format)
    node = Node(config)
    atexit.register(node.close)
    return node.app


def _open_session(mirror: Mirror) -> Session:
    host = f"[{mirror.peer_host}]" if ":" in mirror.peer_host else mirror.peer_host
    try:
        return Session(
            f"{host}:{mirror.peer_port}",
            upload_limit=mirror.upload_limit,
            download_limit=mirror.download_limit,
            peers=mirror.peers,
        )
    except OSError as error:
        raise CannotListen(mirror.peer_host, mirror.peer_port, str(error)) from error
