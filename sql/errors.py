"""What goes wrong in the database, as far as callers need to tell it apart.

SqlError
├── DatabaseDown            nothing was written: try the whole transaction again later
│   ├── NoWritableHost      no host of the list takes writes now
│   ├── DroppedMeanwhile    layers were dropped while they were being queued
│   └── DatabaseUnfit       it lacks a table, a column, or a right of ours
├── UnsupportedDatabase     the URL names a database that this service cannot use
├── RbtorrentIdTaken        another layer has this rbtorrent id already
├── MdsRecordBroken         a row of the registry's MDS driver that cannot be read
└── TablesMissing           tables that others should have made are not there

Each says itself in one line, fit for a log, without statements, parameters or passwords.
"""

from __future__ import annotations

from collections.abc import Sequence


class SqlError(Exception):
    """The root."""


class DatabaseDown(SqlError):
    """The database cannot be reached, went away, or is too busy. `why` is its own word for it.

    The transaction did not happen, with one exception that no client can tell: the connection broke while
    COMMIT was under way. All that this package writes may safely be written again.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the database is down: {why}")


class NoWritableHost(DatabaseDown):
    """No host takes writes now. `reasons` holds a line for each one that was tried."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = list(reasons)
        super().__init__("; ".join(self.reasons))


class DroppedMeanwhile(DatabaseDown):
    """Layers were dropped at the moment in which they were queued: the same once more queues them."""

    def __init__(self) -> None:
        self.why = "layers were dropped at this moment, it has to be tried again"
        SqlError.__init__(self, self.why)


class DatabaseUnfit(DatabaseDown):
    """The database lacks a table, a column or a right, until somebody mends that. `why` tells which."""

    def __init__(self, why: str) -> None:
        self.why = why
        SqlError.__init__(self, f"the database is not ready: {why}")


class UnsupportedDatabase(SqlError, ValueError):
    """The database is neither PostgreSQL through psycopg2 nor a SQLite file."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} is not supported: give postgresql:// or sqlite:///file")


class RbtorrentIdTaken(SqlError):
    """Another layer has `rbtorrent_id`, and the seed's index wants it unique.

    It is the SHA-1 of bytes that name the layer's own digest, so two honest layers never share one: the
    other row was written by something else. The transaction is broken off.
    """

    def __init__(self, digest: str, rbtorrent_id: str) -> None:
        self.digest = digest
        self.rbtorrent_id = rbtorrent_id
        super().__init__(f"{rbtorrent_id} of {digest} belongs to another layer already")


class MdsRecordBroken(SqlError):
    """The row for `path` in the MDS driver's tables is not what that driver writes."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"the MDS record of {path} cannot be read: {why}")


class TablesMissing(SqlError):
    """These tables are not ours to create, and they are not in the database. `names` are theirs."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        super().__init__(f"the database has no table {', '.join(self.names)}: is it the registry's?")
