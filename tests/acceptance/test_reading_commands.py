"""Commands that only read create nothing, not even the embedded database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers.layers import layer_bytes
from tests.servers.push import push_image
from tests.servers.registry import Registry

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        ("queue status", 0, "waiting    0"),
        ("role list", 0, "roles 0"),
        (f"show {DIGEST}", 1, f"{DIGEST} is unknown"),
        ("show SCOPE:v1", 0, "brewed 0 of 1 layers"),
        ("check", 0, "checked 4, failed 0, skipped 3"),
        ("run prune --dry-run", 0, "would forget 0"),
        ("backfill repository --dry-run SCOPE", 0, "would queue 1 layers"),
        ("backfill storage --dry-run --from directory --limit 1", 0, "would queue 1 layers"),
        ("backfill legacy --dry-run", 1, "no table mds_keys_to_rbtorrents_mapping"),
        ("init-db --print", 0, "CREATE TABLE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_on_a_new_installation_it_answers_and_creates_nothing(
    tmp_path: Path, registry: Registry, scope: str, words: str, status: int, printed: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1)])
    installation = Installation(tmp_path, registry.netloc, layers={"directory": str(registry.storage)})

    ended = installation.run(*words.replace("SCOPE", scope).split(), check=False)

    assert (ended.returncode, printed in ended.stdout + ended.stderr) == (status, True), ended
    assert not installation.state.exists()


def test_a_command_that_writes_logs_one_line_about_the_new_database(tmp_path: Path) -> None:
    installation = Installation(tmp_path, "127.0.0.1:1")

    ended = installation.run("role", "grant", "library/*")

    assert len(ended.stderr.splitlines()) == 1
    assert "database prepared" in ended.stderr
