"""Good verdicts, remembered for a short while, without the tokens that they are about."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

MAX_VERDICTS = 100_000


class GoodVerdicts:
    """Callers with access, remembered for `lifetime` seconds (0: none are remembered).

    A caller is kept as a keyed hash of his token and address; the key lives and dies with this object.
    `clock` gives seconds, and never goes back. Once there are `limit` callers, the oldest verdict is
    forgotten.
    """

    def __init__(self, lifetime: float, clock: Callable[[], float], limit: int = MAX_VERDICTS) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._limit = limit
        self._key = secrets.token_bytes(32)
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, token: str, address: str) -> bool:
        """Whether this caller was let in lately."""
        with self._lock:
            return self._until.get(self._hash(token, address), float("-inf")) > self._clock()

    def keep(self, token: str, address: str) -> None:
        """Remember that this caller was let in now."""
        if self._lifetime <= 0:
            return
        caller = self._hash(token, address)
        with self._lock:
            self._until[caller] = self._clock() + self._lifetime
            self._until.move_to_end(caller)
            while len(self._until) > self._limit:
                self._until.popitem(last=False)

    def _hash(self, token: str, address: str) -> bytes:
        # A token holds no line break, so no two callers give the same text.
        return hmac.digest(self._key, f"{token}\n{address}".encode(), hashlib.sha256)
