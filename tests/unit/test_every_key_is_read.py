"""Every key of the configuration is read, at the start or later."""

from __future__ import annotations

import ast
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

import core.server
import docker_torrents
import web.swarm_command
from core.config.config import Config, Section
from core.config.file import parse_config
from core.digest import Digest
from jobs.run_records import RunRecorder
from jobs.scheduled_jobs import JOBS
from jobs.scheduler_command import schedules
from jobs.service import Service

EVERYTHING = """
application:
    {{event_authorization: secret, public_url: 'http://here', state_dir: {state}, authorization: blackbox}}
docker_registry: {{host: registry}}
blackbox: {{url_template: 'http://blackbox/?{{payload}}'}}
mds: {{url_template: 'http://mds/{{payload}}/', torrent_url: 'http://tracker/announce'}}
brewer: {{brew_user: user, brew_password: password}}
layers: {{source: {source}, directory: {state}, bucket: layers}}
torrents: {{store: {store}, web_seed_secret: '0123456789abcdef0123456789abcdef'}}
s3: {{bucket: torrents, access_key: a, secret_key: b, region: r, endpoint_url: 'http://s3'}}
db: {database}
jobs: {{publish-whitelist: {{file: {state}/whitelist, reload_command: ['true']}}}}
"""
# Read into the secret beside it while the file is checked: tests/unit/test_config.py.
SECRET_FILES = {
    "event_authorization_file",
    "brew_password_file",
    "web_seed_secret_file",
    "secret_key_file",
    "password_file",
}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The keys of each section that were read."""
    seen: set[tuple[str, str]] = set()
    look = Section.__getattribute__

    def recording(section: Section, name: str) -> Any:
        if not name.startswith(("_", "model_")):
            seen.add((type(section).__name__, name))
        return look(section, name)

    monkeypatch.setattr(Section, "__getattribute__", recording)
    return seen


def put_together(config: Config) -> None:
    """Build everything that this configuration requires, and run the jobs on an empty queue."""
    service = Service(config)
    assert config.trackers == ["http://tracker/announce"]
    assert service.engine
    assert service.tables
    assert service.source
    assert service.store
    urls = service.registry.urls
    assert all([urls.manifest("a", "b"), urls.tags("a"), urls.blob("a", Digest.parse("sha256:" + "0" * 64))])
    docker_torrents.web_app(service).close()
    assert schedules(service, RunRecorder(service))
    docker_torrents.start_web(config, Namespace(workers=1, debug=None))
    web.swarm_command.start_swarm(config, Namespace(debug=None))
    if config.db.url:
        for name in ("release-locks", "scan-tags", "publish-whitelist"):
            JOBS[name].run(service)
        if config.layers.source == "directory":
            JOBS["prune"].run(service)
    service.engine.dispose()


def test_an_attribute_of_the_same_name_elsewhere_does_not_count() -> None:
    class Torrents(Section):
        splitlines: bool = False

    assert not found_as(Torrents, "splitlines") & looked_up_in_the_code()


def looked_up_in_the_code() -> set[tuple[str, str]]:
    """Return the attributes that the code reads, each with the name of its object: (`torrents`, `store`) for
    `config.torrents.store`. But for core/config/ with its checks.
    """
    pairs = set()
    files = [
        ROOT / "docker_torrents.py",
        *(f for room in ("core", "jobs", "web", "node") for f in (ROOT / room).rglob("*.py")),
    ]
    for file in files:
        if file.parent == ROOT / "core" / "config":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                pairs.add((name, node.attr))
    return pairs


def sections(root: type[Section] = Section) -> set[type[Section]]:
    """Return all classes of sections, including subclasses."""
    return {inner for section in root.__subclasses__() for inner in {section} | sections(section)}


def found_as(section: type[Section], key: str) -> set[tuple[str, str]]:
    """Return how code reads this key: from its section, or from a property of the configuration."""
    names = {name for name, field in Config.model_fields.items() if section.__name__ in str(field.annotation)}
    names |= {"config"} if section is Config or key in vars(Config) else set()
    return {(name, key) for name in names}


def test_every_key_is_read(
    read: set[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = tmp_path / "docker/registry/v2/blobs/sha256/00" / ("0" * 64)
    blob.mkdir(parents=True)
    (blob / "data").touch()
    for module in (core.server, web.swarm_command):
        monkeypatch.setattr(module, "serve", lambda *_, **__: 0)
    sqlite = f"{{url: 'sqlite:///{tmp_path}/queue.sqlite'}}"
    postgresql = "{host: 'a,b', database: d, username: u, password: p}"
    put_to_use: set[tuple[str, str]] = set()
    for source, store, database in (
        ("registry", "directory", sqlite),
        ("s3", "s3", postgresql),
        ("directory", "directory", sqlite),
        ("mds", "directory", postgresql),
    ):
        text = EVERYTHING.format(state=tmp_path, source=source, store=store, database=database)
        config = parse_config(text, "config.yaml", {})
        read.clear()  # keys read only by the checks do not count
        put_together(config)
        put_to_use |= read

    later = looked_up_in_the_code()
    unread = {
        f"{section.__name__}.{key}"
        for section in sections()
        if section.__module__ != __name__  # defined in the test above
        for key in section.model_fields
        if (section.__name__, key) not in put_to_use
        and key not in SECRET_FILES
        and not found_as(section, key) & later
    }
    assert unread == set()
