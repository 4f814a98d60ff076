"""Files that point container engines at the mirror: other content is kept, and the mirror's can be removed."""

from __future__ import annotations

import tomllib

import pytest
import yaml

from core.errors import EngineConfigInvalid
from node.engines import hosts_toml, k3s_registries, registries_conf
from node.engines.block import BEGIN

MIRROR = "http://127.0.0.1:5050"
REGISTRY = "https://registry.example.com"
OTHERS_HOSTS = """\
# ours since 2021
server = "https://other.example.com"

[host."https://cache.example.com"]
  capabilities = ["pull"]
  ca = "/etc/ca.pem"
"""
OTHERS_K3S = """\
# two mirrors
mirrors:
    docker.io:
        endpoint:
            - "https://cache.example.com"
configs:
    "cache.example.com":
        auth: {username: a, password: b}
"""


def test_hosts_toml_lists_the_mirror_before_the_registry() -> None:
    parsed = tomllib.loads(hosts_toml.add_mirror("", MIRROR, REGISTRY))

    assert parsed == {"server": REGISTRY, "host": {MIRROR: {"capabilities": ["pull", "resolve"]}}}


def test_an_existing_hosts_toml_is_kept_after_the_mirror() -> None:
    text = hosts_toml.add_mirror(OTHERS_HOSTS, MIRROR, REGISTRY)
    parsed = tomllib.loads(text)

    assert "# ours since 2021" in text
    assert parsed["server"] == "https://other.example.com"
    assert list(parsed["host"]) == [MIRROR, "https://cache.example.com"]
    assert parsed["host"]["https://cache.example.com"] == {"capabilities": ["pull"], "ca": "/etc/ca.pem"}


@pytest.mark.parametrize(
    "before",
    [
        "",
        "# nothing yet",
        OTHERS_HOSTS,
        'server = "https://x"',
        OTHERS_HOSTS.rstrip(),
        OTHERS_HOSTS.replace("\n", "\r\n"),
    ],
)
def test_hosts_toml_is_the_same_when_written_twice_and_as_before_when_removed(before: str) -> None:
    once = hosts_toml.add_mirror(before, MIRROR, REGISTRY)

    assert hosts_toml.add_mirror(once, MIRROR, REGISTRY) == once
    assert hosts_toml.remove_mirror(once) == before


def test_hosts_toml_follows_a_changed_port() -> None:
    once = hosts_toml.add_mirror(OTHERS_HOSTS, MIRROR, REGISTRY)
    again = hosts_toml.add_mirror(once, "http://127.0.0.1:6060", REGISTRY)

    assert list(tomllib.loads(again)["host"]) == ["http://127.0.0.1:6060", "https://cache.example.com"]


def test_a_mirror_configured_by_others_is_kept() -> None:
    theirs = f'[host."{MIRROR}"]\n  capabilities = ["pull"]\n'

    assert hosts_toml.add_mirror(theirs, MIRROR, REGISTRY) == theirs


@pytest.mark.parametrize(
    "broken",
    [
        "server = ",
        f"a = {'9' * 5000}\n",
        f"a = {'[' * 2000}{']' * 2000}\n",
        'host = {"https://a" = {}}',
        f"{BEGIN}\n",
        "note = '''\n[host]\n'''\n",
        "host = 5\n",
    ],
    ids=[
        "no TOML",
        "too long a number",
        "nested too deeply",
        "inline table",
        "half a block",
        "text that looks like a table",
        "host is a number",
    ],
)
def test_hosts_toml_that_cannot_be_extended_is_refused(broken: str) -> None:
    with pytest.raises(EngineConfigInvalid):
        hosts_toml.add_mirror(broken, MIRROR, REGISTRY)


def registries(text: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = tomllib.loads(text)["registry"]
    return found


def test_the_drop_in_names_the_mirror_of_each_registry() -> None:
    text = registries_conf.render(
        ["a.example.com", "b.example.com:5000"], "127.0.0.1:5050", {}, insecure=False
    )
    mirror = [{"location": "127.0.0.1:5050", "insecure": True}]

    assert registries(text) == [
        {"prefix": "a.example.com", "location": "a.example.com", "mirror": mirror},
        {"prefix": "b.example.com:5000", "location": "b.example.com:5000", "mirror": mirror},
    ]


def test_a_registry_without_tls_is_insecure_in_the_drop_in() -> None:
    [registry] = registries(registries_conf.render(["a"], "127.0.0.1:5050", {}, insecure=True))

    assert registry["insecure"] is True


def test_the_drop_in_repeats_existing_settings_of_the_registry() -> None:
    others = [
        'unqualified-search-registries = ["docker.io"]\n[[registry]]\nprefix = "a"\nlocation = "first"\n',
        (
            '[[registry]]\nprefix = "a"\nlocation = "behind"\nblocked = false\n'
            '[[registry.mirror]]\nlocation = "127.0.0.1:5050"\n'
            '[[registry.mirror]]\nlocation = "cache"\npull-from-mirror = "digest-only"\n'
        ),
        '[[registry]]\nlocation = "b"\n',
    ]
    known = {name: one for text in others for name, one in registries_conf.registries(text).items()}
    [registry] = registries(registries_conf.render(["a"], "127.0.0.1:5050", known, insecure=False))

    assert registry == {
        "prefix": "a",
        "location": "behind",
        "blocked": False,
        "mirror": [
            {"location": "127.0.0.1:5050", "insecure": True},
            {"location": "cache", "pull-from-mirror": "digest-only"},
        ],
    }


@pytest.mark.parametrize(
    "broken",
    [
        "[[registry",
        f"a = {'9' * 5000}\n",
        "registry = 5\n",
        'registry = ["a"]\n',
        '[[registry]]\nprefix = "a"\nmirror = "b"\n',
    ],
)
def test_invalid_existing_files_are_reported(broken: str) -> None:
    with pytest.raises(EngineConfigInvalid, match=r"TOML|expected tables"):
        registries_conf.registries(broken)


def test_registries_yaml_names_the_mirror_as_endpoint() -> None:
    parsed = yaml.safe_load(k3s_registries.add_mirror("", ["registry.example.com:5000"], MIRROR))

    assert parsed == {"mirrors": {"registry.example.com:5000": {"endpoint": [MIRROR]}}}


def test_an_existing_registries_yaml_is_kept() -> None:
    text = k3s_registries.add_mirror(OTHERS_K3S, ["a.example.com"], MIRROR)
    parsed = yaml.safe_load(text)
    before = yaml.safe_load(OTHERS_K3S)

    assert "# two mirrors" in text
    assert parsed["configs"] == before["configs"]
    assert parsed["mirrors"] == {**before["mirrors"], "a.example.com": {"endpoint": [MIRROR]}}


@pytest.mark.parametrize(
    "before", ["", OTHERS_K3S, "mirrors:\n", "configs: {}\n", "mirrors:\nconfigs: {}", OTHERS_K3S.rstrip()]
)
def test_registries_yaml_is_the_same_when_written_twice_and_as_before_when_removed(before: str) -> None:
    once = k3s_registries.add_mirror(before, ["a.example.com", "b"], MIRROR)

    assert k3s_registries.add_mirror(once, ["a.example.com", "b"], MIRROR) == once
    assert k3s_registries.remove_mirror(once) == before


@pytest.mark.parametrize(
    "taken",
    [
        "mirrors: {}\n",
        'mirrors: {"docker.io": {}}\n',
        "mirrors:\n  a:\n    endpoint: ['https://cache']\n",
        "[]\n",
        "mirrors: [a]\n",
        "mirrors: {",
        "configs: &a [*a]\n",
    ],
)
def test_registries_yaml_that_cannot_be_extended_is_refused(taken: str) -> None:
    with pytest.raises(EngineConfigInvalid):
        k3s_registries.add_mirror(taken, ["a"], MIRROR)


def test_the_error_quotes_no_password_of_registries_yaml() -> None:
    text = "configs:\n  a:\n    auth:\n      password: secret: word\n"
    with pytest.raises(EngineConfigInvalid, match="line 4") as raised:
        k3s_registries.add_mirror(text, ["a"], MIRROR)
    assert "secret" not in str(raised.value)
