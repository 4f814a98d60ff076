"""A short version of `make chaos`: after random faults every pushed layer is brewed correctly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cluster import Storage, can_mount
from tests.chaos.run import run_chaos

SECONDS = 35
SEED = 103
"""One with which a brewer runs while its clock steps, the disk is full, and the layer source fails."""


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_wrong_after_random_faults(tmp_path: Path) -> None:
    storage: Storage = "disk" if can_mount() else "s3"
    assert run_chaos(tmp_path, seconds=SECONDS, seed=SEED, storage=storage) == []
