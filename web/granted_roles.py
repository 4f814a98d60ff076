"""Which scopes have the rbtorrent role, without asking the database at each event."""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa

from core.names import is_glob, matches
from sql.roles import list_roles
from sql.tables import Tables
from sql.transaction import reading

FRESH_SECONDS = 1.0
"""After this many seconds at most, a role that was granted or revoked is granted or revoked here too."""


class GrantedRoles:
    """The roles as they were within the last FRESH_SECONDS. `clock` gives seconds."""

    def __init__(self, engine: sa.Engine, tables: Tables, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._exact: frozenset[str] = frozenset()
        self._globs: tuple[str, ...] = ()

    def has(self, scope: str) -> bool:
        """Whether the pushes to `scope` are brewed. Raises DatabaseDown if that cannot be told."""
        with self._lock:
            # A clock that was set back makes it look again, too.
            if self._read_at is None or not 0 <= self._clock() - self._read_at < FRESH_SECONDS:
                self._read()
            exact, globs = self._exact, self._globs
        return scope in exact or any(matches(scope, pattern) for pattern in globs)

    def _read(self) -> None:
        now = self._clock()
        with reading(self._engine) as connection:
            patterns = [role.pattern for role in list_roles(connection, self._tables)]
        self._globs = tuple(pattern for pattern in patterns if is_glob(pattern))
        self._exact = frozenset(patterns).difference(self._globs)
        self._read_at = now
