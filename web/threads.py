"""The threads that the web server runs requests in: started when needed, the last one used first.

waitress's own are all started at once and take turns: with as many as slow downloads need, each request
would meet a thread whose memory has long left the processor's cache. And a registry that hangs would take
all of them: here requests that need it get only so many, and the others wait without one.
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

    @property
    def upstream(self) -> bool:
        """Whether what comes next may wait for the registry."""
        ...

    def service(self) -> None: ...
    def cancel(self) -> None: ...

    def refuse(self) -> None:
        """Have `service` answer that there is no room, which asks nobody."""
        ...


_Job = tuple[Task, bool]
"""A task, and whether it counts as one for the registry."""
Inbox = SimpleQueue[_Job | None]


class Threads:
    """A task dispatcher for waitress (waitress.task.ThreadedTaskDispatcher), of `limit` threads at most, of
    which `upstream_limit` do what may wait for the registry.
    """

    def __init__(self, limit: int, upstream_limit: int) -> None:
        self._limit = limit
        self._upstream_limit = upstream_limit
        self._lock = threading.Lock()
        self._idle: list[Inbox] = []
        self._waiting: deque[_Job] = deque()
        self._held_back: deque[tuple[float, Task]] = deque()
        self._upstream = 0
        self._running = 0
        self._ending = False
        self.hurried = False
        """No thread lingers any more: the server is about to end."""

    def add_task(self, task: Task) -> None:
        """Have the task done, at once if a thread is free or may be started."""
        with self._lock:
            upstream = task.upstream
            if upstream:
                if self._upstream >= self._upstream_limit:
                    self._held_back.append((time.monotonic(), task))
                    return
                self._upstream += 1
            job = task, upstream
            if self._idle:
                self._idle.pop().put(job)
                return
            if self._running >= self._limit or self._ending:
                self._waiting.append(job)
                return
            self._running += 1
            number = self._running
        try:
            threading.Thread(target=self._work, args=(job,), name=f"web-{number}", daemon=True).start()
        except RuntimeError:
            # The system has no more threads for us: one that is there does it. Without any, nobody can.
            if not self._leave_to_others(job):
                raise

    def _leave_to_others(self, job: _Job) -> bool:
        with self._lock:
            self._running -= 1
            if self._idle:
                self._idle.pop().put(job)
            elif self._running:
                self._waiting.append(job)
            else:
                self._upstream -= job[1]
                return False
        return True

    def refuse_overdue(self, seconds: float) -> int:
        """Refuse the tasks that have waited for the registry's turn for so long. Returns how many."""
        overdue = []
        with self._lock:
            before = time.monotonic() - seconds
            while self._held_back and self._held_back[0][0] < before:
                overdue.append(self._held_back.popleft()[1])
        for task in overdue:
            task.refuse()
            self.add_task(task)
        return len(overdue)

    def may_linger(self) -> bool:
        """Whether a thread may wait for more of the connection that it has: nothing else is to be done."""
        return not (self._waiting or self._held_back or self.hurried)

    def hurry(self) -> None:
        """From now on no thread lingers."""
        self.hurried = True

    def set_thread_count(self, count: int) -> None:
        """Part of what waitress asks of a dispatcher: the limit was said before."""

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads that are free, and wait so long for the others. Returns whether tasks were left."""
        with self._lock:
            self._ending = True
            left = [task for task, _ in self._waiting] + [task for _, task in self._held_back]
            self._waiting.clear()
            self._held_back.clear()
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()
        for task in left:
            task.cancel()
        give_up = time.monotonic() + timeout
        while self._running and time.monotonic() < give_up:
            time.sleep(0.01)
        return bool(left)

    def _work(self, job: _Job | None) -> None:
        inbox: Inbox = SimpleQueue()
        while job is not None:
            task, upstream = job
            try:
                task.service()
            except Exception:  # waitress answers for the app; what is left is a fault of the server's own
                log.exception("a request broke off")
            job = self._next(inbox, upstream)
        with self._lock:
            self._running -= 1

    def _next(self, inbox: Inbox, was_upstream: bool) -> _Job | None:
        """The next job of a thread, None when it is to end."""
        with self._lock:
            if was_upstream:
                self._upstream -= 1
                if self._held_back:
                    self._upstream += 1
                    self._waiting.append((self._held_back.popleft()[1], True))
            if self._waiting:
                return self._waiting.popleft()
            if self._ending:
                return None
            self._idle.append(inbox)
        return inbox.get()
