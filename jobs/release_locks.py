"""Release the locks of brewers that died: those not renewed for `brew_discard_timeout`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from core.failures import MAX_DELAY
from core.metrics import LOCKS_RELEASED
from jobs.service import Service
from sql.stale_locks import bring_forward, release_future_locks, release_stale_locks
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


def release_locks(service: Service) -> ReleaseSummary:
    """Release the locks that were not renewed for `brew_discard_timeout` seconds.

    The death of a brewer counts as a failed attempt: a layer that kills its brewers is set aside after
    `max_attempts`. Locks that are as far in the future are released too, and retries later than any
    delay become due at once: the clock was set back. Raises DatabaseDown.
    """
    timeout, max_attempts = service.config.brewer.brew_discard_timeout, service.config.brewer.max_attempts
    with transaction(service.database) as connection:
        tables, now = service.tables, service.now(connection)
        released = release_stale_locks(
            connection, tables, older_than=now - timeout, max_attempts=max_attempts, now=now
        )
        future = release_future_locks(connection, tables, ahead=timeout)
        forward = bring_forward(connection, tables, latest=now + MAX_DELAY + timeout, now=now)
    LOCKS_RELEASED.count(amount=released + future)
    if released:
        log.warning("locks released number=%d older_than_seconds=%d", released, timeout)
    if future or forward:
        log.warning("times in the future corrected locks=%d next_tries=%d", future, forward)
    return ReleaseSummary(released + future)
