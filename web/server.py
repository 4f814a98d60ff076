"""Serves the app with waitress, in this process, until it is told to stop; what is in flight then finishes.

Why waitress, and the figures: docs/decisions/wsgi-server.md. Its own way of stopping drops what is
in flight, so its loop is run from here.
"""

from __future__ import annotations

import errno
import logging
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server

from web.lingering import LingeringChannel
from web.protocol_errors import RefusesBody
from web.threads import Threads

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

UPSTREAM_THREADS = 96
"""Requests that may wait for the registry at once. Those beyond wait without a thread."""
THREADS = 320
"""Requests served at once: they wait most of the time, for the registry or for a torrent client. More than
those, layers (web/layers.py) and events (web/events.py) together: there is always a thread for the rest."""
TURN_SECONDS = 10.0
"""How long a request waits for the registry's turn before it is refused (503)."""
GRACE_SECONDS = 10.0
"""How long requests in flight get to finish."""
LARGEST_HEAD_BYTES = 64 * 1024
LARGEST_BODY_BYTES = 41 * 1024 * 1024
"""Just above what events may have (web/events.py)."""
SHORT_BODY_BYTES = 64 * 1024
"""Of all requests that the app takes no long body of: it is kept in memory, as their head is."""
MOST_CONNECTIONS = 10_000
SENT_AHEAD_BYTES = 512 * 1024
PATIENCE_SECONDS = 75.0
"""How long a connection may be idle, or a client take nothing of what it asked for. nginx keeps its own for
60 s: whoever closes last never meets a closed one."""
_TICK_SECONDS = 0.05
_QUIET_SECONDS = 0.5
"""Kept connections are closed at the end once nothing has come over any of them for so long."""
_NO_DESCRIPTORS_SECONDS = 1.0
_TOLD_AGAIN_SECONDS = 60.0
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CAPABILITY = re.compile(r"(/v0/layers/)[^/\s]+")

log = logging.getLogger(__name__)


def most_connections() -> int:
    """How many connections the process can have: half its descriptors are for files and for asking others."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, descriptors // 2)


def without_capability(record: logging.LogRecord) -> bool:
    """A filter of log records that takes the capabilities out of the paths of web seeds."""
    record.msg, record.args = _CAPABILITY.sub(r"\1…", record.getMessage()), ()
    return True


class WebServer:
    """A running server: it answers from construction on, in threads of its own.

    `listening` are sockets that listen already (web/listen.py); they are closed at the end. `refuses_body`
    says which requests may have no body of more than SHORT_BODY_BYTES. `ended` is called when the server has
    ended, by itself too: then it has `failed`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        listening: Sequence[socket.socket],
        *,
        threads: int = THREADS,
        patience: float = PATIENCE_SECONDS,
        refuses_body: RefusesBody = lambda method, path, authorization: None,
        ended: Callable[[], object] = lambda: None,
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
            _dispatcher=Threads(threads, min(threads, UPSTREAM_THREADS)),
            ident=None,
            # poll(2): select(2) ends at 1024 connections.
            asyncore_use_poll=True,
            connection_limit=most_connections(),
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
            short = copy(listener.adj)
            short.max_request_body_size = SHORT_BODY_BYTES
            listener.channel_class = partial(LingeringChannel, short, refuses_body)
            listener.accept = partial(self._accept, listener, listener.accept)
        self._patience = patience
        self._at_end = ended
        self.failed = False
        self._finished = False
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._give_up = float("inf")
        self._look_again = 0.0
        self._accept_again = self._tell_again = 0.0
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
                self._refuse_overdue()
                self._resume_accepting()
            self._finished = self._drain()
        except Exception:
            self.failed = True
            log.exception("the server broke off")
        finally:
            self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
            wasyncore.close_all(self._map, ignore_all=True)
            self._ended.set()
            self._at_end()

    def _drain(self) -> bool:
        """Serve what has come so far, and what still comes over kept connections. Whether all of it was."""
        for listener in self._listeners():
            self._take_waiting(listener)
        # What those who were let in last have sent is read, and becomes requests.
        self._turn(0)
        begun = time.time()
        while (busy := self._busy()) or self._kept_since(begun) < _QUIET_SECONDS:
            if time.monotonic() > self._give_up:
                if busy:
                    log.warning("stopped with requests in flight")
                return not busy
            self._turn(_TICK_SECONDS)
            self._refuse_overdue()
        return True

    def _kept_since(self, begun: float) -> float:
        """For how many seconds nothing has come over the connections that are left, if any."""
        latest = max((channel.last_activity for channel in self._of(HTTPChannel)), default=0.0)
        return time.time() - max(latest, begun) if latest else float("inf")

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

    def _refuse_overdue(self) -> None:
        refused = self._server.task_dispatcher.refuse_overdue(TURN_SECONDS)
        if refused:
            log.warning("requests refused, too many wait for the registry refused=%d", refused)

    def _accept(self, listener: Any, accept: Callable[[], Any]) -> Any:
        """A connection and its address, or None. Without descriptors it is not tried again and again."""
        try:
            return accept()
        except OSError as error:
            now = time.monotonic()
            if error.errno in _NO_ROOM:
                listener.accepting = False
                self._accept_again = now + _NO_DESCRIPTORS_SECONDS
            if now >= self._tell_again:
                self._tell_again = now + _TOLD_AGAIN_SECONDS
                log.error("connections cannot be accepted reason=%s", error.strerror)
            return None

    def _resume_accepting(self) -> None:
        if self._accept_again and time.monotonic() >= self._accept_again:
            self._accept_again = 0.0
            for listener in self._listeners():
                listener.accepting = True

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self._of(HTTPChannel))

    def _listeners(self) -> list[Any]:
        return self._of(BaseWSGIServer)

    def _of(self, kind: type[Any]) -> list[Any]:
        return [one for one in list(self._map.values()) if isinstance(one, kind)]

    def _wake(self) -> None:
        for listener in self._listeners():
            listener.pull_trigger()
