"""A Service for tests, with an existing database and other parts of a test."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import sqlalchemy as sa

from core.config.config import Config
from jobs.service import Service
from sql.tables import Tables, build_tables


def service_of(
    engine: sa.Engine,
    tables: Tables | None = None,
    *,
    parts: Mapping[str, object] | None = None,
    **sections: Mapping[str, Any],
) -> Service:
    """Return a service on `engine`, whose tables exist. `parts` replace properties of the service, as
    `registry`, `store` or `clock`; `sections` are those of the configuration.
    """
    service = Service(Config.model_validate({"docker_registry": {"host": "127.0.0.1:1"}, **sections}))
    # A cached property takes its value from the instance's attributes.
    vars(service).update(
        engine=engine, reader=engine, database=engine, tables=tables or build_tables(), **(parts or {})
    )
    return service


def changed(service: Service, *, brewer: Mapping[str, Any] | None = None, **parts: object) -> Service:
    """Return a copy of `service` with other `parts`, and other values in the configuration's `brewer`."""
    other = copy(service)
    section = service.config.brewer.model_copy(update=brewer)
    other.config = service.config.model_copy(update={"brewer": section})
    vars(other).update(parts)
    return other
