"""Translate the drivers' errors, each with its remedy."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from core.errors import DatabaseBusy, DatabaseDown, DatabaseNotReady, DatabaseRefused
from core.os_errors import os_reason, user_name

_SQLITE_DOWN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_NOT_OPENED = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY})
# These have the error code of any mistake in a statement.
_SQLITE_NOT_READY = re.compile(
    r"no such (?:table|column): |has no column named |ON CONFLICT clause does not match"
)
_CREATE = " (create it with `docker_torrents init-db`)"

# PostgreSQL's manual, appendix A.
_NO_PRIVILEGE, _NO_TABLE = "42501", "42P01"
_NO_COLUMN, _NO_UNIQUE_INDEX, _NO_SCHEMA = "42703", "42P10", "3F000"
_NOT_READY = frozenset({_NO_PRIVILEGE, _NO_TABLE, _NO_COLUMN, _NO_UNIQUE_INDEX, _NO_SCHEMA})
_BUSY = frozenset({"40P01", "55P03", "57014"})  # deadlock, lock and statement time-outs
_DENIED = re.compile(r"permission denied for (?P<kind>table|relation|view|schema) (?P<name>\S+)")


def translate(error: sa.exc.DBAPIError, engine: sa.Engine) -> DatabaseDown | None:
    """Return the error to raise instead of this one, or None if the statement itself is wrong."""
    if isinstance(error.orig, sqlite3.Error):
        return _translate_sqlite(error.orig, Path(engine.url.database or ""))
    if (code := getattr(error.orig, "pgcode", None)) in _NOT_READY:
        # Only the first line: the others show the statement.
        message = str(error.orig).partition("\n")[0]
        return DatabaseNotReady(_remedy(code, message, error.statement or "", engine.url.username))
    if error.connection_invalidated or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return (DatabaseBusy if code in _BUSY else DatabaseDown)(" ".join(str(error.orig).split()))
    return None


def sqlite_path_error(error: OSError, path: Path) -> DatabaseDown:
    """Return the error for a `path` that cannot be used; for a missing permission with the user's name."""
    if isinstance(error, PermissionError):
        return DatabaseRefused(f"{path}: {os_reason(error)}")
    return DatabaseDown(f"{path}: {os_reason(error)}: is db.url or application.state_dir right?")


def _translate_sqlite(error: sqlite3.Error, file: Path) -> DatabaseDown | None:
    # OperationalError may be a missing table or a full disk, so check the code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _SQLITE_DOWN:
        if code in _SQLITE_NOT_OPENED and not all(map(_is_writable, _existing_paths(file))):
            return DatabaseRefused(f"{file}: permission denied for user {user_name()}")
        return (DatabaseBusy if code in _SQLITE_BUSY else DatabaseDown)(f"{file}: {error}")
    if _SQLITE_NOT_READY.search(str(error)):
        remedy = _CREATE if str(error).startswith("no such table: ") else ""
        return DatabaseNotReady(f"{file}: {error}{remedy}")
    return None


def _existing_paths(file: Path) -> list[Path]:
    """Return the paths that must be writable: the file, if it exists, and its folder, for the log."""
    # Path.exists() raises PermissionError if its folder may not be searched.
    return [path for path in (file, file.parent) if os.path.exists(path)]


def _is_writable(path: Path) -> bool:
    searched = os.X_OK if path.is_dir() else 0
    return os.access(path, os.R_OK | os.W_OK | searched, effective_ids=True)


def _remedy(code: str, message: str, statement: str, user: str | None) -> str:
    who = user or "this user"
    if code == _NO_TABLE:
        return f"{message}{_CREATE}"
    if code != _NO_PRIVILEGE:
        return message
    if statement.lstrip().upper().startswith("CREATE"):
        return f"user {who}: {message}: run the output of `docker_torrents init-db --print` as the owner"
    # The server may speak another language.
    if not (denied := _DENIED.search(message)):
        return f"user {who}: {message}"
    name = denied["name"]
    if denied["kind"] == "schema":
        return f"user {who}: {message}: GRANT USAGE ON SCHEMA {name} TO {who}"
    only_reads = statement.lstrip().upper().startswith("SELECT") and "FOR UPDATE" not in statement.upper()
    privileges = "SELECT" if only_reads else "SELECT, INSERT, UPDATE, DELETE"
    return f"user {who}: {message}: GRANT {privileges} ON {name} TO {who}"
