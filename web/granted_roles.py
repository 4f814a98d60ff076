"""Which scopes have the rbtorrent role, without asking the database at each event."""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa

from core.errors import DatabaseDown
from core.names import is_glob, matches
from sql.scopes import list_roles
from sql.tables import Tables
from sql.transaction import reading

FRESH_SECONDS = 1.0
"""After this many seconds at most, a role that was granted or revoked is granted or revoked here too."""

PATIENCE_SECONDS = 0.5
"""How long an event waits for the one that is with the database: registries give up after a second."""

PAUSE_SECONDS = 2.0
"""How long the database is left alone once it did not answer."""


class GrantedRoles:
    """The roles as they were within the last FRESH_SECONDS. `clock` gives seconds."""

    def __init__(self, engine: sa.Engine, tables: Tables, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._asking = threading.Lock()
        self._read_at: float | None = None
        self._failed_at: float | None = None
        self._granted: tuple[frozenset[str], tuple[str, ...]] = (frozenset(), ())

    def has(self, scope: str) -> bool:
        """Whether the pushes to `scope` are brewed. Raises DatabaseDown if that cannot be told: soon, however
        long the database takes for those who came before.
        """
        if not self._within(self._read_at, FRESH_SECONDS):
            self._read()
        exact, globs = self._granted
        return scope in exact or any(matches(scope, pattern) for pattern in globs)

    def _within(self, since: float | None, seconds: float) -> bool:
        # A clock that was set back makes it look again, too.
        return since is not None and 0 <= self._clock() - since < seconds

    def _read(self) -> None:
        """Ask the database, unless somebody else just has."""
        self._refuse_while_down()
        if not self._asking.acquire(timeout=PATIENCE_SECONDS):
            self._failed_at = self._clock()
            raise DatabaseDown("it has not told the roles in time")
        try:
            if self._within(self._read_at, FRESH_SECONDS):
                return
            self._refuse_while_down()
            self._ask()
        except DatabaseDown:
            self._failed_at = self._clock()
            raise
        finally:
            self._asking.release()

    def _refuse_while_down(self) -> None:
        if self._within(self._failed_at, PAUSE_SECONDS):
            raise DatabaseDown("it did not answer a moment ago")

    def _ask(self) -> None:
        now = self._clock()
        with reading(self._engine) as connection:
            patterns = [role.pattern for role in list_roles(connection, self._tables)]
        globs = tuple(pattern for pattern in patterns if is_glob(pattern))
        self._granted = frozenset(patterns).difference(globs), globs
        self._read_at, self._failed_at = now, None
