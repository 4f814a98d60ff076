"""The section `mirror` of the configuration."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from core.config.config import Config
from core.config.file import parse_config
from core.errors import ConfigInvalid

REGISTRY = "docker_registry: {host: registry.example.com}\n"


def load(mirror: str) -> Config:
    return parse_config(f"{REGISTRY}mirror: {mirror}", "config.yaml", {}, folder=Path("/etc/mirror"))


def test_a_node_needs_only_the_registry() -> None:
    mirror = parse_config(REGISTRY, "config.yaml", {}).mirror
    assert (mirror.host, mirror.port) == ("127.0.0.1", 5050)
    assert mirror.torrents_url is None
    assert mirror.cache_size == 20 * 2**30


@pytest.mark.parametrize(("text", "size"), [("20GiB", 20 * 2**30), ("1.5MB", 1_500_000), ("4096", 4096)])
def test_sizes_are_bytes_or_text(text: str, size: int) -> None:
    assert load(f"{{cache_size: {text}}}").mirror.cache_size == size


def test_peers_are_networks_or_single_addresses() -> None:
    mirror = load("{peers: [10.0.0.0/8, 'fd00::/8', 192.0.2.7]}").mirror
    assert mirror.peers == [ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("192.0.2.7/32")]


def test_a_relative_cache_dir_starts_at_the_folder_of_the_file() -> None:
    assert load("{cache_dir: cache}").mirror.cache_dir == Path("/etc/mirror/cache")


@pytest.mark.parametrize(
    ("mirror", "key"),
    [
        ("{host: registry}", "mirror.host"),
        ("{port: 0}", "mirror.port"),
        ("{torrents_url: 'ftp://a'}", "mirror.torrents_url"),
        ("{registry_names: ['http://a']}", "mirror.registry_names.0"),
        ("{peers: [10.0.0.1/8]}", "mirror.peers.0"),
        ("{cache_size: 0}", "mirror.cache_size"),
        ("{cache_size: 20 apples}", "mirror.cache_size"),
        ("{keep_free: -1}", "mirror.keep_free"),
        ("{torrents_off: ['A B']}", "mirror.torrents_off.0"),
        ("{time_limit: 0}", "mirror.time_limit"),
        ("{cache: x}", "mirror.cache"),
    ],
)
def test_a_mistake_is_reported_with_its_key(mirror: str, key: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        load(mirror)
    assert [problem.partition(": ")[0] for problem in raised.value.problems] == [key]
