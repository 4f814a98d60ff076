"""Connections whose thread stays a moment after its answer, as the next request often follows at once.

In waitress each request goes over the server's loop: it polls all connections, reads, wakes a thread, and is
woken by it. Whoever asks again within LINGER_SECONDS is read and served by the thread that is there.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Any

from waitress.channel import HTTPChannel

from web.protocol_errors import JsonErrorTask, Refusal, RefusesBody, RequestHead
from web.sent_files import FilePart, FileSendingTask

LINGER_SECONDS = 0.005
"""As long as a client on the same network takes to ask for the next thing it knows of."""

ASK_NOBODY = ("/ping", "/v0/event", "/v0/layers/")
"""Paths that wait for no registry, or, as layers do, have a limit of their own to that. Others may wait."""


class LingeringChannel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection of a server whose threads are web.threads.Threads."""

    task_class = FileSendingTask
    error_task_class = JsonErrorTask

    def __init__(self, short: Any, refuses_body: RefusesBody, server: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Server(server, self), *args, **kwargs)
        self._short = short
        self._refuses_body = refuses_body
        self.lingering = False
        """A thread has the connection: the loop does not read from it, or take note of what is read."""

    def parser_class(self, adj: Any) -> RequestHead:
        """What reads the next request."""
        return RequestHead(adj, self._short, self._refuses_body)

    @property
    def socket(self) -> Any:
        """The client's end. Closed by the loop, it stays: a thread about to use it then meets an OSError."""
        return self._socket

    @socket.setter
    def socket(self, given: Any) -> None:
        if given is not None:
            self._socket = given

    @property
    def upstream(self) -> bool:
        """Whether the next request may wait for the registry."""
        requests = self.requests
        return bool(requests) and requests[0].error is None and not requests[0].path.startswith(ASK_NOBODY)

    def refuse(self) -> None:
        """Answer the next request that there is no room for it."""
        for request in self.requests[:1]:
            request.error = Refusal(503)

    def readable(self) -> bool:
        """Asked by the loop before each poll."""
        return not self.lingering and bool(super().readable())

    def send(self, data: bytes | FilePart, do_close: bool = True) -> int:
        """How many bytes of `data` the client's end takes now: 0 if it is full, or gone."""
        if not isinstance(data, FilePart):
            return int(super().send(data, do_close))
        try:
            return data.send_to(self.socket)
        except BlockingIOError:
            return 0

    def service(self) -> None:
        """Serve the request that has come, and those that follow at once."""
        upstream, more = self.upstream, False
        self.lingering = True
        try:
            super().service()
            # The thread has its place for one kind of request. Another kind is handed on: one that asks the
            # registry waits for its turn, and one that does not, a download say, keeps nobody from his.
            while (self.requests or self._read_next()) and upstream == self.upstream:
                super().service()
            more = bool(self.requests)
        finally:
            self.lingering = False
            if self.connected:
                self.server.pull_trigger()
        if more:
            self.server.add_task(self)

    def _read_next(self) -> bool:
        """Whether a whole request has been read. What only the loop can do is left to it."""
        if not self.connected or self.writable() or not self.server.task_dispatcher.may_linger():
            return False
        # ValueError: the loop has closed it meanwhile.
        with suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            if poll.poll(LINGER_SECONDS * 1000) and self.socket.recv(1, socket.MSG_PEEK):
                self.handle_read()
        return bool(self.requests)


class _Server:
    """The server as one connection sees it: not to be woken, nor given requests, while a thread lingers."""

    def __init__(self, server: Any, channel: LingeringChannel) -> None:
        self._server = server
        self._channel = channel
        # Looked up for each request.
        self.adj = server.adj
        self.application = server.application
        self.task_dispatcher = server.task_dispatcher

    def add_task(self, channel: LingeringChannel) -> None:
        if not channel.lingering:
            self._server.add_task(channel)

    def pull_trigger(self) -> None:
        if not self._channel.lingering or self._channel.writable():
            self._server.pull_trigger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)
