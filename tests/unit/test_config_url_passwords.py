"""URLs with a password: what is not escaped is refused, and nothing of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config.addresses import check_password
from core.config.file import load_config
from core.errors import ConfigInvalid


@pytest.mark.parametrize(
    "password", ["se@cret", "@secret", "se/cret", "se#cret", "12/34secret", "se?cret", "s@e/c#ret"]
)
@pytest.mark.parametrize("key", ["db.url", "http.proxy"])
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(
    tmp_path: Path, key: str, password: str
) -> None:
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
        "sqlite:////srv/a@b/file.sqlite",
        "http://proxy.example.com:3128",
    ],
)
def test_urls_without_a_mistake_pass(url: str) -> None:
    assert check_password(url) == url
