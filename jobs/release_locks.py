"""Release the locks of brewers that died: those not renewed for `brew_discard_timeout`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Engine

from sql.claims import release_stale_locks
from sql.tables import Tables
from sql.transaction import transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseSummary:
    """How many locks were released."""

    released: int

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not self.released

    def __str__(self) -> str:
        return f"released {self.released}"


def release_locks(
    engine: Engine, tables: Tables, *, now: int, brew_discard_timeout: int, max_attempts: int
) -> ReleaseSummary:
    """Release the locks older than `brew_discard_timeout` seconds at Unix time `now`.

    The death of a brewer counts as a failed attempt: a layer that kills its brewers is set aside after
    `max_attempts`. Raises DatabaseDown.
    """
    with transaction(engine) as connection:
        released = release_stale_locks(
            connection, tables, older_than=now - brew_discard_timeout, max_attempts=max_attempts, now=now
        )
    if released:
        log.warning("locks released number=%d older_than_seconds=%d", released, brew_discard_timeout)
    return ReleaseSummary(released)
