"""The database's part of the configuration: section `db`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from core.config.addresses import Port, check_password
from core.config.section import Context, FilePath, Section, checked
from core.config.values import Timeout, matching, template


def _hosts(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list) or not value or not all(value):
        raise ValueError("expected a host, or several separated by commas")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    check_password(value.get_secret_value())
    return value


_RELATIVE_SQLITE = re.compile(r"(sqlite(?:\+pysqlite)?:///)(?!/)(?!:memory:)(.+)", re.DOTALL)


def _sqlite_from_folder(value: SecretStr, info: ValidationInfo) -> SecretStr:
    """Let a relative SQLite file start at the folder of the configuration file."""
    if not (isinstance(info.context, Context) and info.context.folder):
        return value
    folder = info.context.folder
    return SecretStr(
        _RELATIVE_SQLITE.sub(lambda match: f"{match[1]}{folder / match[2]}", value.get_secret_value())
    )


TableName = Annotated[
    str, matching(r"[a-z_][a-z0-9_]{0,62}", "a table name: at most 63 lower-case letters, digits and _")
]
MappingTableName = Annotated[
    str, matching(r"[a-z_][a-z0-9_]{0,40}", "a table name: at most 41 lower-case letters, digits and _")
]
"""Shorter, as the names of other tables are made of it."""
DatabaseHost = Annotated[str, checked(lambda checks: checks.database_host)]
DatabaseUrl = Annotated[
    SecretStr,
    AfterValidator(_database_url),
    checked(lambda checks: checks.database_url),
    AfterValidator(_sqlite_from_folder),
]


class Db(Section):
    url: DatabaseUrl | None = None
    database: str | None = None
    username: str | None = None
    password_file: FilePath | None = None
    password: SecretStr | None = None
    host: Annotated[list[DatabaseHost], BeforeValidator(_hosts)] | None = None
    port: Port = 5432
    table_name: MappingTableName = "rbtorrent_mapping"
    old_table_name: TableName = "mds_keys_to_rbtorrents_mapping"
    blob_path_template: Annotated[str, template("short_digest", "full_digest")] = (
        "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"
    )
    blob_path_digest_index: Annotated[int, Field(ge=0)] = 7
    mfs_table: TableName = "mfs"
    mds_table: TableName = "mds"
    max_pool_size: Annotated[int, Field(ge=2, le=1000)] = 100
    connect_timeout: Timeout = 2.0


def _text(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def problems_of(db: Db) -> list[str]:
    """Return the problems of the combination of keys, a line each."""
    problems = []
    parts, index = db.blob_path_template.split("/"), db.blob_path_digest_index
    if index >= len(parts) or parts[index] != "{full_digest}":
        problems.append(
            f"db.blob_path_digest_index is {index}, but element {index} of db.blob_path_template "
            "(split at /) is not {full_digest}"
        )
    if db.url is None and db.host and not db.database:
        problems.append("db.host is set, but db.database is missing")
    if db.url is None and not db.host:
        for key in ("database", "username", "password"):
            if (value := getattr(db, key)) is not None and _text(value):
                problems.append(f"db.{key} is set, but db.host is missing")
    return problems
