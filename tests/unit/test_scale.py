"""docs/decisions/scale.md uses the limits and sizes of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.swarm.leases import MAX_MEMBERS, MAX_SWARMS
from core.swarm.messages import MAX_SEEDS, SEEDS_INTERVAL
from core.torrents.piece_length import piece_length

PAGE = Path(__file__).parents[2] / "docs" / "decisions" / "scale.md"
MACHINES, LAYER = 20_000, 10_000_000


@pytest.mark.parametrize(
    "figure",
    [
        f"| {MACHINES / SEEDS_INTERVAL:.0f} | `SEEDS_INTERVAL`",
        f"up to {MAX_SEEDS} layers every {SEEDS_INTERVAL / 60:.0f} minutes",
        f"{MAX_MEMBERS:,} entries (a machine and a layer) and {MAX_SWARMS:,} layers",
        f"{-(-LAYER // piece_length(LAYER))} pieces of {piece_length(LAYER) // 1024} KiB",
    ],
)
def test_a_figure_is_computed_from_the_code(figure: str) -> None:
    assert figure in " ".join(PAGE.read_text().split())
