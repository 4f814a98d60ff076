"""Serves the app with waitress, in this process, until it is told to stop; what is in flight then finishes.

Why waitress, and the figures: docs/decisions/wsgi-server.md. Its own way of stopping drops what is
in flight, so its loop is run from here.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server

from web.lingering import LingeringChannel
from web.threads import Threads

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

THREADS = 192
"""Requests served at once: they wait most of the time, for the registry or for a torrent client. More than
web/layers.py sends layers at a time, so that there is always a thread for a manifest."""
GRACE_SECONDS = 10.0
"""How long requests in flight get to finish."""
LARGEST_HEAD_BYTES = 64 * 1024
LARGEST_BODY_BYTES = 64 * 1024 * 1024
"""The calls have limits of their own, far below this, and refuse in the registry's JSON."""
SENT_AHEAD_BYTES = 512 * 1024
PATIENCE_SECONDS = 75.0
"""How long a connection may be idle, or a client take nothing of what it asked for. nginx keeps its own for
60 s: whoever closes last never meets a closed one."""
_TICK_SECONDS = 0.05
_CAPABILITY = re.compile(r"(/v0/layers/)[^/\s]+")

log = logging.getLogger(__name__)


def without_capability(record: logging.LogRecord) -> bool:
    """A filter of log records that takes the capabilities out of the paths of web seeds."""
    record.msg, record.args = _CAPABILITY.sub(r"\1…", record.getMessage()), ()
    return True


class WebServer:
    """A running server: it answers from construction on, in threads of its own.

    `listening` are sockets that listen already (web/listen.py); they are closed at the end.
    """

    def __init__(
        self,
        app: WSGIApplication,
        listening: Sequence[socket.socket],
        *,
        threads: int = THREADS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        # Its lines show paths, and that of a web seed is the right to read it.
        logging.getLogger("waitress").addFilter(without_capability)
        # At INFO it tells the paths of clients that left, and the path of a web seed is a capability.
        logging.getLogger("waitress").setLevel(logging.WARNING)
        self._map: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._map,
            sockets=list(listening),
            # The one argument that is not in its documentation; but create_server has long had it.
            _dispatcher=Threads(threads),
            ident=None,
            # poll(2): select(2) ends at 1024 connections.
            asyncore_use_poll=True,
            connection_limit=10_000,
            channel_timeout=patience,
            # A body that breaks off with an OSError ends its connection: no traceback, no path, in the log.
            log_socket_errors=False,
            # nginx's word on who calls goes on to the registry; trusting it is the operator's matter.
            clear_untrusted_proxy_headers=False,
            # What a client has not taken yet waits in memory, up to this; then the app waits. Never on disk.
            outbuf_high_watermark=SENT_AHEAD_BYTES,
            outbuf_overflow=64 * SENT_AHEAD_BYTES,
            max_request_header_size=LARGEST_HEAD_BYTES,
            max_request_body_size=LARGEST_BODY_BYTES,
        )
        for listener in self._listeners():
            listener.channel_class = LingeringChannel
        self._patience = patience
        self._finished = False
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._give_up = float("inf")
        self._look_again = 0.0
        self._loop = threading.Thread(target=self._run, name="web", daemon=True)
        self._loop.start()

    def stop(self, grace: float = GRACE_SECONDS) -> bool:
        """Take no more connections, let requests in flight finish for `grace` seconds, then end.

        Returns whether all of them finished. May be called from any thread, more than once.
        """
        if not self._stopping.is_set():
            self._give_up = time.monotonic() + grace
            self._server.task_dispatcher.hurry()
            self._stopping.set()
            self._wake()
        self._ended.wait()
        return self._finished

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the server has ended, for so long at most. Returns whether it has."""
        return self._ended.wait(seconds)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn(1.0)
                self._give_up_stalled()
            self._finished = self._drain()
        finally:
            self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
            wasyncore.close_all(self._map, ignore_all=True)
            self._ended.set()

    def _drain(self) -> bool:
        """Serve what has come so far. Whether all of it was."""
        for listener in self._listeners():
            self._take_waiting(listener)
        # What those who were let in last have sent is read, and becomes requests.
        self._turn(0)
        while self._busy():
            if time.monotonic() > self._give_up:
                log.warning("stopped with requests in flight")
                return False
            self._turn(_TICK_SECONDS)
        return True

    def _take_waiting(self, listener: BaseWSGIServer) -> None:
        """Accept who has connected already, then nobody: closing would reset those connections."""
        before = -1
        while len(self._map) > before:
            before = len(self._map)
            listener.handle_accept()
        listener.accepting = False
        listener.socket.close()
        listener.del_channel()

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _give_up_stalled(self) -> None:
        """Close connections whose client takes nothing of its answer: each of them may hold a thread.

        waitress itself gives up idle connections only, never one with a request.
        """
        now = time.time()
        if now < self._look_again:
            return
        self._look_again = now + min(1.0, self._patience / 10)
        for channel in self._of(HTTPChannel):
            if channel.total_outbufs_len and channel.last_activity < now - self._patience:
                channel.handle_close()

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self._of(HTTPChannel))

    def _listeners(self) -> list[Any]:
        return self._of(BaseWSGIServer)

    def _of(self, kind: type[Any]) -> list[Any]:
        return [one for one in list(self._map.values()) if isinstance(one, kind)]

    def _wake(self) -> None:
        for listener in self._listeners():
            listener.pull_trigger()
