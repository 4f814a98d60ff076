"""URLs with an unescaped password are refused without showing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config.addresses import check_password
from core.config.file import load_config, parse_config
from core.errors import ConfigInvalid

PASSWORDS = [
    "se@cret",
    "@secret",
    "se/cret",
    "se#cret",
    "12/34secret",
    "12?34secret",
    "se?cret",
    "s@e/c#ret",
    "se@cr/et",
]
KEYS_WITHOUT = {
    "application.public_url": "application: {{public_url: '{}'}}",
    "docker_registry.hash_resolve_template": "docker_registry: {{host: a, hash_resolve_template: '{}/{{scope}}/{{blob_sum}}'}}",
    "blackbox.url_template": "blackbox: {{url_template: '{}?{{payload}}'}}",
    "mds.url_template": "mds: {{url_template: '{}/{{payload}}'}}",
    "mds.torrent_url": "mds: {{url_template: 'http://mds/{{payload}}', torrent_url: '{}'}}",
    "torrents.trackers": "torrents: {{trackers: ['{}']}}",
    "torrents.web_seeds": "torrents: {{web_seeds: ['{}/{{hex}}']}}",
    "s3.endpoint_url": "s3: {{endpoint_url: '{}', bucket: b}}",
    "mirror.torrents_url": "mirror: {{torrents_url: '{}'}}",
}
"""URLs that hold no user, as YAML."""


@pytest.mark.parametrize("key", KEYS_WITHOUT)
def test_a_url_that_is_not_for_users_shows_no_part_of_a_password(key: str) -> None:
    for password in (*PASSWORDS, "secret"):
        text = KEYS_WITHOUT[key].format(f"http://user:{password}@host.example.com:3128/x")
        if not text.startswith("docker_registry"):
            text = f"docker_registry: {{host: a}}\n{text}"
        with pytest.raises(ConfigInvalid) as caught:
            parse_config(text, "config.yaml", {})
        message = str(caught.value)
        assert f"{key}" in message
        assert not [part for part in ("se", "cr", "et", "12", "34") if f"'{part}" in message], message
        assert "cret" not in message


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("key", ["db.url", "http.proxy"])
def test_an_unescaped_password_is_refused_and_not_shown(tmp_path: Path, key: str, password: str) -> None:
    section, _, name = key.partition(".")
    scheme = "postgresql" if section == "db" else "http"
    file = tmp_path / "config.yaml"
    file.write_text(
        "docker_registry: {host: registry.example.com}\n"
        f"{section}: {{{name}: '{scheme}://user:{password}@host.example.com:3128/x'}}\n"
    )
    with pytest.raises(ConfigInvalid) as caught:
        load_config(file)
    assert "write %40 for @" in str(caught.value)
    assert key in str(caught.value)
    assert "cret" not in str(caught.value)
    assert "34" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s%40cret@host/db",
        "postgresql://user:secret@host:5432/db?options=a@b",
        "postgresql://host:5432/db?user=a@b",
        "postgresql:///db?host=a:1&host=b:2",
        "postgresql:///queue?host=/var/run/postgresql",
        "postgresql://[::1]:5432/queue",
        "postgresql://user:pass@[::1]/queue",
        "postgresql://user:pass@a:1,b:2/queue",
        "postgresql://user@db.example/queue?application_name=a@b",
        "sqlite:////srv/a@b/file.sqlite",
        "http://proxy.example.com:3128",
    ],
)
def test_correct_urls_are_accepted(url: str) -> None:
    assert check_password(url) == url
