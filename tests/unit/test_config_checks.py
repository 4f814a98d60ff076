"""Unusable database URLs and cron expressions are reported with all other problems."""

from __future__ import annotations

from pathlib import Path

import pytest

import docker_torrents
from core.config.config import Config
from core.config.file import parse_config
from core.errors import ConfigInvalid

REGISTRY = "docker_registry: {host: a}\n"


def load(text: str) -> Config:
    return parse_config(REGISTRY + text, "config.yaml", {}, docker_torrents.CHECKS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("db: {url: 'no url'}", "db.url: an invalid URL is not supported"),
        ("db: {url: 'mysql://host/name'}", "db.url: mysql:// is not supported: use postgresql:// or sqlite"),
        ("db: {url: 'sqlite://'}", "db.url: sqlite:// in memory is not supported"),
        ("db: {url: 'postgresql://u:hush-hush@a b/name'}", "db.url: the host is invalid"),
        ("db: {url: 'postgresql://u:hush-hush@host:port/name'}", "db.url: an invalid URL"),
        ("db: {url: 'postgresql://host:99999/name'}", "db.url: expected a port from 1 to 65535"),
        ("db: {url: 'postgresql:///name?host=a:1&host=b:0'}", "db.url: the host is invalid"),
        ("db: {host: 'one,two:0', database: d}", "db.host.1: 'two:0' is not a host: expected a port"),
        ("jobs: {brew: {cron: ''}}", "jobs.brew.cron: expected the five fields of cron, got 0"),
        ("jobs: {brew: {cron: '* * * *'}}", "jobs.brew.cron: expected the five fields of cron, got 4"),
        ("jobs: {scan-tags: {cron: '61 * * * *'}}", "jobs.scan-tags.cron: "),
        ("jobs: {prune: {cron: 'soon * * * *'}}", "jobs.prune.cron: "),
        ("jobs: {prune: {cron: '0 3 * * 8'}}", "jobs.prune.cron: expected a weekday"),
        ("jobs: {prune: {cron: '0 3 31 2 *'}}", "jobs.prune.cron: that date never occurs: '0 3 31 2 *'"),
    ],
)
def test_an_unusable_value_is_reported_with_the_path_of_its_key(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(text)

    [problem] = caught.value.problems
    assert problem.startswith(message)
    assert "hush-hush" not in problem


@pytest.mark.parametrize(
    "text",
    [
        "db: {url: 'postgresql://u:p@host:6432/name'}",
        "db: {url: 'postgresql://u:p@[::1]:6432/name'}",
        "db: {url: 'postgresql:///name?host=a:1&host=b:2'}",
        "db: {url: 'sqlite:////var/lib/queue.sqlite'}",
        "db: {host: 'one,two:6432,::1,/var/run/postgresql', database: d}",
        "jobs: {prune: {cron: '0 3 29 2 *'}, scan-tags: {cron: '0 3 31 2 mon'}}",
    ],
)
def test_a_usable_value_is_accepted(text: str) -> None:
    assert load(text)


def test_the_command_exits_with_2_and_prints_a_line_for_each_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "docker_registry: {proto: ftp}\n"
        "db: {url: 'mysql://host/name', max_pool_size: 0}\n"
        "jobs: {brew: {cron: '* * * *'}, prune: {cron: '0 3 31 2 *', interval: -1}}\n"
        "brewers: {}\n"
    )

    assert docker_torrents.main(["-c", str(config), "check"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line.removeprefix(f"docker_torrents: {config}: ") for line in printed.err.splitlines()]
    assert sorted(line.partition(":")[0] for line in lines) == [
        "brewers",
        "db.max_pool_size",
        "db.url",
        "docker_registry.host",
        "docker_registry.proto",
        "jobs.brew.cron",
        "jobs.prune.cron",
        "jobs.prune.interval",
    ]
