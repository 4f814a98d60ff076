"""Jobs with an interval go on when the system's clock is set back or forward."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers.process import require
from tests.servers.push import push_image
from tests.servers.registry import Registry

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture
def installation(tmp_path: Path, registry: Registry) -> Installation:
    return Installation(tmp_path / "installation", registry.netloc, brewer={"sleep_time": 2})


def push_and_wait(installation: Installation, registry: Registry, scope: str, tag: str) -> None:
    push_image(registry, scope, tag, [os.urandom(900)])
    installation.run("backfill", "repository", scope)
    installation.run("show", "--wait", "--timeout", "50", f"{scope}:{tag}")


@pytest.mark.parametrize(("first", "then"), [("+3h", "+0"), ("+0", "+4000d")], ids=["back", "forward"])
def test_layers_are_brewed_after_the_clock_was_set(
    installation: Installation, registry: Registry, scope: str, first: str, then: str
) -> None:
    require("faketime", "faketime")
    clock = installation.folder / "clock"
    clock.write_text(f"{first}\n")
    scheduler = installation.process(
        "scheduler",
        environment={
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
    )
    scheduler.start()
    try:
        push_and_wait(installation, registry, scope, "before")
        clock.write_text(f"{then}\n")
        push_and_wait(installation, registry, scope, "after")
    finally:
        scheduler.stop()
