"""The tables of an older service and of the registry's MDS driver."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sql.tables import Tables
from sql.transaction import transaction
from tests.integration.sql.database import Database
from tests.storage_backends import blob_path_of


def old_id_of(name: object) -> str:
    """Return the older service's id for this name."""
    return "rbtorrent:" + hashlib.sha1(f"skynet {name}".encode()).hexdigest()


class OldService:
    """Files by a short name, from which digest, keys and id are derived by default."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.tables: Tables = database.tables
        self.tables.mfs.metadata.create_all(database.engine)

    def add(self, name: object, **odd: Any) -> str:
        """Add a blob in MDS with an id; `odd` are arguments of `add_file` and `add_id`. Return its digest."""
        digest = self.add_file(
            name, **{key: odd.pop(key) for key in ("path", "info", "deleted") if key in odd}
        )
        self.add_id(name, **odd)
        return digest

    def add_file(
        self, name: object, *, path: str | None = None, info: str | None = None, deleted: bool | None = False
    ) -> str:
        """Add a blob in MDS, and return its digest."""
        hex_digits = hashlib.sha256(str(name).encode()).hexdigest()
        path = path or f"/{blob_path_of(hex_digits)}"
        info = info if info is not None else json.dumps({"key": self.mds_key(name), "size": 7, "id": "1:2"})
        self._insert(self.tables.mfs, path=path, dir=False, size=7, key=self.driver_key(name))
        self._insert(self.tables.mds, key=self.driver_key(name), mdsfileinfo=info, deleted=deleted)
        return f"sha256:{hex_digits}"

    def add_id(self, name: object, *, mds_key: str | None = None, rbtorrent_id: str | None = "") -> None:
        """Add a row of the older service; an empty id stands for the default one."""
        if rbtorrent_id == "":
            rbtorrent_id = old_id_of(name)
        self._insert(self.tables.old, mds_key=mds_key or self.mds_key(name), rbtorrent_id=rbtorrent_id)

    def forget_path(self, name: object) -> None:
        """Remove a file from the driver's tree, but not from MDS."""
        mfs = self.tables.mfs
        with transaction(self.database.engine) as connection:
            connection.execute(mfs.delete().where(mfs.c.key == self.driver_key(name)))

    @staticmethod
    def mds_key(name: object) -> str:
        """Return the key of the file in MDS."""
        return f"{30_000 + len(str(name))}/{name}"

    @staticmethod
    def driver_key(name: object) -> str:
        """Return the driver's key of the file."""
        return hashlib.md5(str(name).encode(), usedforsecurity=False).hexdigest()

    def _insert(self, table: Any, **values: Any) -> None:
        with transaction(self.database.engine) as connection:
            connection.execute(table.insert().values(values))
