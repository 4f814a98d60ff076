"""Jobs with an interval continue when the system's clock is set back or forward."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.installation import Installation
from tests.servers.process import require
from tests.servers.push import push_image
from tests.servers.registry import Registry

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture
def installation(tmp_path: Path, registry: Registry) -> Installation:
    return Installation(tmp_path / "installation", registry.netloc, brewer={"sleep_time": 2})


def following(clock: Path) -> dict[str, str]:
    """Return the environment in which a process's clock follows the file (faketime(1))."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def push_and_wait(installation: Installation, registry: Registry, scope: str, tag: str) -> None:
    push_image(registry, scope, tag, [os.urandom(900)])
    installation.run("backfill", "repository", scope)
    installation.run("show", "--wait", "--timeout", "240", f"{scope}:{tag}")


@pytest.mark.parametrize(("first", "then"), [("+3h", "+0"), ("+0", "+4000d")], ids=["back", "forward"])
def test_layers_are_brewed_after_the_clock_was_set(
    installation: Installation, registry: Registry, scope: str, first: str, then: str
) -> None:
    require("faketime", "faketime")
    clock = installation.folder / "clock"
    clock.write_text(f"{first}\n")
    with installation.process("scheduler", environment=following(clock)):
        push_and_wait(installation, registry, scope, "before")
        clock.write_text(f"{then}\n")
        push_and_wait(installation, registry, scope, "after")


@pytest.mark.parametrize("wrong", ["+3h", "-3h"])
def test_a_host_whose_clock_is_wrong_releases_no_lock_of_another(
    tmp_path: Path, registry: Registry, postgres_url: str, wrong: str
) -> None:
    require("faketime", "faketime")
    installation = Installation(tmp_path, registry, db={"url": postgres_url})
    installation.init_db()
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO rbtorrent_mapping (digest, added, brew_lock) "
            f"SELECT 'sha256:{'0' * 64}', 0, extract(epoch FROM now())::bigint"
        )
    clock = tmp_path / "clock"
    clock.write_text(f"{wrong}\n")
    with installation.process("run", "release-locks", environment=following(clock)) as release:
        assert release.exit_status() == 0
    assert "released 0" in (tmp_path / "program.log").read_text()
