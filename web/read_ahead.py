"""Connections that are read from while their request is served, so that the server's loop sleeps more.

waitress leaves a connection out of its poll while a request of it is served, and so wakes its loop after
each answer, to take it in again. With `channel_request_lookahead` it stays in; then waking is only for what
the loop has to do: sending what is left, closing, or reading on where it had stopped to.
"""

from __future__ import annotations

from typing import Any

from waitress.channel import HTTPChannel

LOOKAHEAD = 1
"""Requests of a connection that are read before the one in work is answered."""


class ReadAheadChannel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection for a server with `channel_request_lookahead`."""

    def __init__(self, server: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self.server = _WokenIfNeeded(server, self)
        self.polled = False

    def readable(self) -> bool:
        """Asked by the loop before each poll."""
        # A thread that takes a request off in between sees that this is not decided, and wakes the loop.
        self.polled = False
        self.polled = bool(super().readable())
        return self.polled


class _WokenIfNeeded:
    """The server as one connection sees it."""

    def __init__(self, server: Any, channel: ReadAheadChannel) -> None:
        self._server = server
        self._channel = channel
        self.add_task = server.add_task

    def pull_trigger(self) -> None:
        """Wake the loop, unless it polls the connection anyway and has nothing else to do for it."""
        if self._channel.writable() or not self._channel.polled:
            self._server.pull_trigger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)
