"""The threads that the web server runs requests in: started when needed, the last one used first.

waitress's own are all started at once and take turns: with as many as slow downloads need, each request
would meet a thread whose memory has long left the processor's cache.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Protocol

log = logging.getLogger(__name__)


class Task(Protocol):
    """What waitress has to be done: the requests of one connection."""

    def service(self) -> None: ...
    def cancel(self) -> None: ...


Inbox = SimpleQueue[Task | None]


class Threads:
    """A task dispatcher for waitress (waitress.task.ThreadedTaskDispatcher), of `limit` threads at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[Inbox] = []
        self._waiting: deque[Task] = deque()
        self._running = 0
        self._ending = False
        self._hurried = False

    def add_task(self, task: Task) -> None:
        """Have the task done, at once if a thread is free or may be started."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(task)
                return
            if self._running >= self._limit or self._ending:
                self._waiting.append(task)
                return
            self._running += 1
            number = self._running
        threading.Thread(target=self._work, args=(task,), name=f"web-{number}", daemon=True).start()

    def may_linger(self) -> bool:
        """Whether a thread may wait for more of the connection that it has: nothing else is to be done."""
        return not (self._waiting or self._hurried)

    def hurry(self) -> None:
        """From now on no thread lingers."""
        self._hurried = True

    def set_thread_count(self, count: int) -> None:
        """Part of what waitress asks of a dispatcher: the limit was said before."""

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads that are free, and wait so long for the others. Returns whether tasks were left."""
        with self._lock:
            self._ending = True
            left = list(self._waiting)
            self._waiting.clear()
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()
        for task in left:
            task.cancel()
        give_up = time.monotonic() + timeout
        while self._running and time.monotonic() < give_up:
            time.sleep(0.01)
        return bool(left)

    def _work(self, task: Task | None) -> None:
        inbox: Inbox = SimpleQueue()
        while task is not None:
            try:
                task.service()
            except Exception:  # waitress answers for the app; what is left is a fault of the server's own
                log.exception("a request broke off")
            task = self._next(inbox)
        with self._lock:
            self._running -= 1

    def _next(self, inbox: Inbox) -> Task | None:
        """The next task of a thread, None when it is to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._ending:
                return None
            self._idle.append(inbox)
        return inbox.get()
