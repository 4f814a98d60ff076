"""A cache of the scopes with the rbtorrent role, to avoid a query for each event."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine

from core.errors import DatabaseBusy, DatabaseDown
from core.names import is_glob, matches
from sql.scopes import list_roles
from sql.tables import Tables
from sql.transaction import reading
from web.limits import DatabasePause

FRESH_SECONDS = 1.0
"""A role that was granted or revoked takes effect within this time."""

WAIT_SECONDS = 0.5
"""How long an event waits while another one reads the roles: registries time out after a second."""


class RoleCache:
    """The roles, at most FRESH_SECONDS old. Thread-safe."""

    def __init__(self, engine: Engine, tables: Tables, timer: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._tables = tables
        self._timer = timer
        self._reading = threading.Lock()
        self._pause = DatabasePause(timer)
        self._fresh_until = float("-inf")
        self._granted: tuple[frozenset[str], tuple[str, ...]] = (frozenset(), ())

    def has(self, scope: str) -> bool:
        """Return whether pushes to `scope` are brewed. Raises DatabaseDown soon if the database is slow."""
        if self._timer() >= self._fresh_until:
            self._read()
        exact, globs = self._granted
        return scope in exact or any(matches(scope, pattern) for pattern in globs)

    def _read(self) -> None:
        """Read the roles, unless another thread just has."""
        if not self._reading.acquire(timeout=WAIT_SECONDS):
            self._pause.failed()
            raise DatabaseBusy("reading the roles takes too long")
        try:
            if self._timer() < self._fresh_until:
                return
            if not self._pause.may_query():
                raise DatabaseDown("it did not answer a moment ago")
            now = self._timer()
            with reading(self._engine) as connection:
                patterns = [role.pattern for role in list_roles(connection, self._tables)]
        except DatabaseDown:
            self._pause.failed()
            raise
        finally:
            self._reading.release()
        globs = tuple(pattern for pattern in patterns if is_glob(pattern))
        self._granted = frozenset(patterns).difference(globs), globs
        self._fresh_until = now + FRESH_SECONDS
        self._pause.answered()
