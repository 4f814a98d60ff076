"""`check`: probe every dependency of the service, and print a line for each."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path

from sqlalchemy import Engine

from core.access.access import choose_access
from core.access.blackbox import BlackboxAccess
from core.clients import http_client
from core.config.config import Config
from core.errors import (
    BadAnswer,
    DatabaseDown,
    DatabaseError,
    DatabaseNotReady,
    NotFound,
    Refused,
    StoreFailed,
    TimedOut,
    Unavailable,
)
from core.http.url import parse_url
from core.layer import Layer
from core.probing import Probe, Skipped, check, exists, tls_probes, why_unusable
from core.torrents.store import MetainfoStore
from core.torrents.web_seeds import (
    capability_secret,
    has_capability_secret,
    warn_of_useless_torrents,
    web_seed_urls,
)
from core.trackers import SECONDS as TRACKER_SECONDS
from core.trackers import Announcer, tracker_name
from jobs.service import Service, with_service
from jobs.summary import print_summary
from sql.layers import LayerRecord, find_layer, newest_brewed
from sql.schema import missing_grants, missing_objects
from sql.scopes import list_roles
from sql.tables import Tables
from sql.transaction import reading

_NO_TORRENT = bytes(20)
_RANGE_BYTES = 1024


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the function of `check`."""
    command.set_defaults(func=with_service(_run, stoppable=False))


def _run(service: Service, arguments: argparse.Namespace) -> int:
    warn_of_useless_torrents(service.config)
    return print_summary(check(probes(service)))


def probes(service: Service) -> Iterator[tuple[str, Probe]]:
    """Yield the probes of `check`, each after those it depends on."""
    config = service.config
    folder = config.metainfo_dir if config.torrents.store == "directory" else None
    tables = service.tables
    brewed = cache(partial(_newest_brewed, service))
    yield "database", lambda: probe_database(service.engine, tables)
    yield "registry", lambda: service.registry.ping()
    yield "layers", lambda: _probe_layers(service, brewed())
    yield "metainfo", lambda: probe_store(service.store, folder)
    if config.authorization == "blackbox":
        yield "blackbox", lambda: _probe_blackbox(service)
    yield from tls_probes(_urls(config), config.tls.ca_file, config.http.proxy is not None)
    for tracker in config.trackers:
        yield "tracker", partial(_probe_tracker, config, tracker, brewed)
    if not config.trackers:
        yield "tracker", lambda: Skipped("torrents.trackers is not set; mirrors need none")
    yield "web seed", lambda: _probe_web_seed(service, brewed())
    yield "events", lambda: _explain_events(service)


def probe_database(engine: Engine, tables: Tables) -> str:
    """Check that the database takes writes to every table, and return the missing objects. Raises
    DatabaseDown.

    Nothing is created, not even a SQLite file.
    """
    if engine.name == "sqlite" and not exists(file := Path(engine.url.database or "")):
        if (why := why_unusable(file)) is not None:
            raise DatabaseDown(why)
        return f"sqlite {file} will be created at first use"
    if engine.name == "sqlite" and not os.access(file, os.W_OK, effective_ids=True):
        raise DatabaseDown(f"{file}: permission denied for this user")
    with reading(engine) as connection:
        lacking = missing_objects(connection, tables)
        to_do = [f"missing {what}" for what in lacking if what.startswith("column ")]
        to_do += missing_grants(connection, tables, lacking)
    if to_do:
        raise DatabaseNotReady("; ".join(to_do))
    made = f", {len(lacking)} tables and indexes will be created at first use" if lacking else ""
    return f"{engine.dialect.name} takes writes{made}"


def probe_store(store: MetainfoStore, folder: Path | None) -> str:
    """Check that the metainfo store works. A `folder` is not created. Raises StoreFailed."""
    if folder is None or exists(folder):
        return store.check()
    if (why := why_unusable(folder)) is not None:
        raise StoreFailed(str(folder), why)
    return f"directory {folder} will be created at first use"


def _newest_brewed(service: Service) -> LayerRecord | Skipped:
    """Return the last brewed layer, or why there is none for tests."""
    try:
        with reading(service.reader) as connection:
            newest = newest_brewed(connection, service.tables)
            now = service.now(connection)
            brewed = find_layer(connection, service.tables, newest, now=now) if newest else None
    except DatabaseError:
        # The probe of the database has reported it.
        return Skipped("the database does not answer")
    return brewed or Skipped("no layer is brewed yet")


def _probe_layers(service: Service, brewed: LayerRecord | Skipped) -> str:
    """Check the backend of layers by listing and by reading, which are separate permissions."""
    found = service.source.check()
    # The registry may have lost it since, which `prune` detects.
    if not isinstance(brewed, Skipped):
        layer = Layer(brewed.digest, brewed.scopes, brewed.size)
        with suppress(NotFound), closing(service.source.open(layer, 0)) as reader:
            reader.readinto(memoryview(bytearray(1)))
    return found


def _urls(config: Config) -> list[str]:
    """Return URLs of the servers that the service uses, and the public URL of the app."""
    urls = [
        f"{config.docker_registry.proto}://{config.docker_registry.host}",
        config.application.public_url,
        config.s3.endpoint_url,
        config.blackbox.url_template.partition("?")[0] if config.blackbox else None,
        *(tracker for tracker in config.trackers if not tracker.startswith("udp:")),
    ]
    return [url for url in urls if url]


def _probe_blackbox(service: Service) -> str | Skipped:
    access = choose_access(service.config, service.registry, time.monotonic)
    return (
        access.check()
        if isinstance(access, BlackboxAccess)
        else Skipped("callers are authorized by the registry")
    )


def _probe_tracker(config: Config, tracker: str, brewed: Callable[[], LayerRecord | Skipped]) -> str:
    """Announce a brewed layer, and name the remedy if the tracker does not answer. Raises RemoteError."""
    announcer = Announcer(http_client(config, TRACKER_SECONDS, TRACKER_SECONDS))
    try:
        return _announce(announcer, tracker, brewed())
    except Unavailable as error:
        remedy = "start it, or remove it from torrents.trackers"
        raise Unavailable(tracker_name(tracker), f"{error.why}: {remedy}") from error


def _announce(announcer: Announcer, tracker: str, brewed: LayerRecord | Skipped) -> str:
    """Announce a brewed layer as a peer that leaves at once. Raises RemoteError."""
    name = tracker_name(tracker)
    if isinstance(brewed, Skipped) or brewed.rbtorrent_id is None:
        announcer.announce(tracker, _NO_TORRENT, "stopped")
        why = brewed.why if isinstance(brewed, Skipped) else "the newest layer has no id"
        return f"{name} answers; announces were not tested: {why}"
    info_hash = bytes.fromhex(brewed.rbtorrent_id.partition(":")[2])
    whitelist = (
        f"if it serves only the torrents of a whitelist, set jobs.publish-whitelist.file to that file "
        f"(docs/operations.md); the announce was for {brewed.digest}"
    )
    try:
        answer = announcer.announce(tracker, info_hash, "started", brewed.size or 1)
    except Refused as refused:
        raise Refused(name, None, f"{refused.why.rstrip('.')}: {whitelist}") from refused
    except TimedOut:
        # Over UDP opentracker does not answer for torrents that are not on its whitelist.
        announcer.announce(tracker, info_hash, "stopped")
        raise Refused(name, None, f"it answers, but not for this torrent: {whitelist}") from None
    announcer.announce(tracker, info_hash, "stopped")
    return answer


def _probe_web_seed(service: Service, brewed: LayerRecord | Skipped) -> str | Skipped:
    """Fetch the beginning of a brewed layer as a torrent client does. Raises RemoteError."""
    config = service.config
    if not config.web_seeds:
        return Skipped("application.public_url is not set, so torrents have no web seed")
    if isinstance(brewed, Skipped):
        return brewed
    if not brewed.scopes:
        return Skipped(f"no repository of {brewed.digest} is known")
    if not has_capability_secret(config):
        return Skipped("the web app has not run here yet, so there is no secret for signatures")
    urls = web_seed_urls(config, capability_secret(config), brewed.scopes[0], brewed.digest, time.time())
    with service.http() as http:
        for url in urls:
            # The capability in the URL grants access to the layer, so only the host is shown.
            where = f"{parse_url(url).scheme}://{parse_url(url).netloc}"
            headers = {"Range": f"bytes=0-{_RANGE_BYTES - 1}"}
            try:
                with http.open("GET", url, headers=headers) as answer:
                    status = answer.status
            except (Unavailable, TimedOut) as error:
                raise Unavailable(
                    where, f"{error.why}: does application.public_url point to the web app?"
                ) from error
            if status != 206:
                why = f"status {status} instead of 206 to a Range request for {brewed.digest}"
                raise BadAnswer(where, why)
    return f"{where} returns ranges of {brewed.digest}"


def _explain_events(service: Service) -> str | Skipped:
    """Return how to configure the registry's notifications."""
    application = service.config.application
    if application.event_authorization is None:
        return Skipped("application.event_authorization is not set: only scan-tags finds pushes")
    try:
        with reading(service.reader) as connection:
            roles = len(list_roles(connection, service.tables))
    except DatabaseError:
        return Skipped("the database does not answer")
    if not roles:
        return Skipped("no repository has the role: grant it with `docker_torrents role grant PATTERN`")
    url = (application.public_url or f"http://THIS-HOST:{application.port}").rstrip("/")
    return (
        f"roles granted: {roles}; the registry's notifications.endpoints need the url {url}/v0/event "
        "and application.event_authorization as the header Authorization"
    )
