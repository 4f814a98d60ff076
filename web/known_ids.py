"""The rbtorrent ids of layers, looked up without letting a slow or dead database hold up an answer."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from core.errors import DatabaseDown
from sql.layers import find_rbtorrent_ids
from sql.tables import Tables
from sql.transaction import reading

PATIENCE_SECONDS = 0.5
"""How long a request waits for the database. Its manifest is what matters."""

PAUSE_SECONDS = 2.0
"""How long the database is left alone once it did not answer: then one request asks again."""

KEPT_SECONDS = 60.0
"""A layer's id never changes; but its row may be deleted by hand."""

_KEPT = 100_000

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Question:
    """A request's layers. `ids` is None until the database has answered."""

    digests: Sequence[str]
    answered: threading.Event = field(default_factory=threading.Event)
    ids: dict[str, str] | None = None


class KnownIds:
    """Asks the database in one thread; requests that come meanwhile share the next question.

    `clock` gives seconds. May be used from several threads.
    """

    def __init__(self, engine: sa.Engine, tables: Tables, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._kept: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._down_until = float("-inf")
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._thread = self._start()

    def find(self, digests: Iterable[str]) -> tuple[dict[str, str], bool]:
        """The ids of those of the layers (`sha256:<hex>`) that are brewed, and whether these are all: False
        while the database does not answer.
        """
        wanted = dict.fromkeys(digests)
        ids = self._remembered(wanted)
        unknown = [digest for digest in wanted if digest not in ids]
        if not unknown:
            return ids, True
        if not self._may_ask():
            return ids, False
        question = _Question(unknown)
        self._questions.put(question)
        question.answered.wait(PATIENCE_SECONDS)
        if question.ids is None:
            with self._lock:
                self._down_until = self._clock() + PAUSE_SECONDS
            log.warning("database does not answer: manifests go out without ids")
            return ids, False
        return {**ids, **question.ids}, True

    def close(self) -> None:
        """End the thread, unless the database holds it."""
        self._questions.put(None)
        self._thread.join(PATIENCE_SECONDS)

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._answer, name="ids", daemon=True)
        thread.start()
        return thread

    def _remembered(self, digests: Iterable[str]) -> dict[str, str]:
        ids = {}
        with self._lock:
            now = self._clock()
            for digest in digests:
                kept = self._kept.get(digest)
                if kept is not None and kept[1] > now:
                    ids[digest] = kept[0]
        return ids

    def _may_ask(self) -> bool:
        """Whether the database answers; after a pause, one caller is sent to find out."""
        with self._lock:
            now = self._clock()
            if self._down_until == float("-inf"):
                return True
            if now < self._down_until:
                return False
            self._down_until = now + PAUSE_SECONDS
            if not self._thread.is_alive():
                # An error that nobody foresaw ended it, and was told by threading.excepthook.
                self._thread = self._start()
            return True

    def _answer(self) -> None:
        while (first := self._questions.get()) is not None:
            together, last = [first], False
            while not self._questions.empty():
                more = self._questions.get()
                if more is None:
                    last = True
                    break
                together.append(more)
            self._ask(together)
            if last:
                return

    def _ask(self, together: Sequence[_Question]) -> None:
        digests = {digest for question in together for digest in question.digests}
        try:
            with reading(self._engine) as connection:
                ids = find_rbtorrent_ids(connection, self._tables, digests)
            self._remember(ids)
            for question in together:
                question.ids = {digest: ids[digest] for digest in question.digests if digest in ids}
        except DatabaseDown as down:
            log.warning("ids not read reason=%s", down)
        except sa.exc.SQLAlchemyError as error:
            # A table that is not there, say. This thread has to live, and the manifests have to go out.
            log.error("ids not read reason=%s", type(error).__name__)
        finally:
            for question in together:
                question.answered.set()

    def _remember(self, ids: dict[str, str]) -> None:
        with self._lock:
            self._down_until = float("-inf")
            until = self._clock() + KEPT_SECONDS
            for digest, rbtorrent_id in ids.items():
                self._kept[digest] = (rbtorrent_id, until)
                self._kept.move_to_end(digest)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
