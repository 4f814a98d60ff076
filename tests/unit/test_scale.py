"""docs/decisions/scale.md computes with the bounds and sizes of the code, and the figures in bench/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.swarm.lease_table import MAX_MEMBERS, MAX_SWARMS
from core.swarm.messages import MAX_SEEDS, SEEDS_INTERVAL
from core.torrents.piece_length import piece_length

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs" / "decisions" / "scale.md").read_text().split())
MACHINES, LAYERS, LAYER, PUSHES, LAYERS_A_PUSH = 20_000, 10_000_000, 10_000_000, 1_000, 5
REQUESTS_A_PULL = 9
CACHE = 20 * 2**30
PIECES = -(-LAYER // piece_length(LAYER))


def measured(bench: str, column: str, **row: object) -> float:
    """Return a figure of bench/results/<bench>.json: `column` of the row with these values."""
    rows: list[dict[str, Any]] = json.loads((ROOT / "bench" / "results" / f"{bench}.json").read_text())[
        "rows"
    ]
    [found] = [one for one in rows if row.items() <= one.items()]
    return float(found[column])


PARTS = [
    measured("database", "bytes", what=f"a row of {name}, indexes included")
    for name in ("mapping", "queue", "scope")
]
ROW = sum(PARTS)
PUSH = {"what": "a push of 5 new layers"}
WRITES, INSERTED, UPDATED = (
    measured("database", name, **PUSH) for name in ("transactions", "inserted", "updated")
)
LOG = measured("database", "bytes", **PUSH)
CLAIM = {"queue": "mostly brewed", "rows": LAYERS}
EVENTS = measured("events", "events/s", event="image with 5 new layers", registries=64)
SMALL = measured("small_layers", "layers/s", what="brew, PostgreSQL")
TAG = measured("scan", "requests/tag", what="1000 x 20, nothing changed")
SIXTEEN = {"what": "mirrors", "machines": 16}
THIRTY_TWO = {"what": "mirrors", "machines": 32}
AT_ONCE = {"scenario": "all at once", "nodes": 10_000}
MANIFESTS = {"server": "app, 1 process", "clients": 16}
BREWERS = [measured("brewers", "layers/s", brewers=count) for count in (1, 2, 4, "S3 alone")]
SENT = measured("swarm", "sent, layers", **SIXTEEN)
PUSHED_BITS = 8 * PUSHES * LAYERS_A_PUSH * LAYER / 3600


@pytest.mark.parametrize(
    "figure",
    [
        f"{MACHINES / SEEDS_INTERVAL:.0f} | 20,000 / `SEEDS_INTERVAL`",
        f"up to {MAX_SEEDS} layers every {SEEDS_INTERVAL / 60:.0f} minutes",
        f"{MAX_MEMBERS:,} entries (a machine and a layer) and {MAX_SWARMS:,} layers",
        (
            f"{PIECES} pieces of {piece_length(LAYER) // 1024} KiB, 20 bytes each: 10 M are "
            f"{LAYERS * PIECES * 20 / 1e9:.0f} GB"
        ),
        f"{LAYERS * 1024 * 20 / 1e9:.0f} GB at most",
        f"10 M x {ROW:,.0f} bytes = {LAYERS * ROW / 1e9:.1f} GB; {PARTS[2]:.0f} bytes more",
        "{:.0f} bytes in the mapping, {:.0f} in the queue, {:.0f} for its repository".format(*PARTS),
        (
            f"{WRITES:.1f} transactions (1 event, 1 claim, 5 layers, 1 record of the run), {INSERTED:.0f} rows inserted "
            f"and {UPDATED:.0f} updated, {LOG / 1000:.0f} kB of log"
        ),
        (
            f"{PUSHES * WRITES:,.0f} transactions ({PUSHES * WRITES / 3600:.1f} a second), "
            f"{round(PUSHES * (INSERTED + UPDATED), -3):,.0f} rows, {PUSHES * LOG / 1e6:.0f} MB of log"
        ),
        f"commits {EVENTS:,.0f} events a second",
        f"1,000 pushes an hour are {100 * PUSHES / 3600 / EVENTS:.2f} % of it",
        f"{measured('claim', 'claim ms', **CLAIM):.1f} ms for ten layers",
        f"{measured('claim', 'ratio', **CLAIM):.1f} times as long",
        (
            f"{PUSHES * LAYERS_A_PUSH / 3600:.1f} layers and, with 10 MB each, "
            f"{PUSHES * LAYERS_A_PUSH * LAYER / 3600 / 1e6:.0f} MB a second"
        ),
        f"does {SMALL:.0f} small layers a second",
        f"{measured('brew_large', 'MB/s', what='brew_layer: SHA-256, pieces, metainfo kept'):,.0f} MB a second",
        f"at {SMALL:.0f} a second, takes {LAYERS / SMALL / 3600:.0f} hours",
        "brewed {:.0f}, {:.0f} and {:.0f} layers".format(*BREWERS),
        f"the smallest of four was {measured('brewers', 'smallest share', brewers=4):.0%}".replace("%", " %"),
        f"alone stores {BREWERS[3]:.0f} a second",
        f"{TAG:.2f} requests a tag",
        f"take {2_000_000 * TAG / 100 / 3600:.1f} hours",
        f"announce {round(MACHINES * CACHE / LAYER / 1800, -3):,.0f} times a second",
        f"swarm_simulated: {measured('swarm_simulated', 'calls/s', **AT_ONCE):.0f} at 10,000",
        f"{measured('swarm_simulated', 'last node', **AT_ONCE):.2f} times the time of a machine alone",
        f"sent it {measured('swarm_simulated', 'layers from origin', **AT_ONCE):.2f} times",
        f"{MACHINES * REQUESTS_A_PULL / 3600:.0f} a second on average",
        f"and {MACHINES * REQUESTS_A_PULL / 600:.0f} while one image goes",
        f"answers {round(measured('manifests', 'requests/s', **MANIFESTS), -2):,.0f} manifests a second",
        (
            f"{MACHINES * LAYERS_A_PUSH * LAYER * 8 / 3600 / 1e9:.1f} Gbit/s | 1,000 x 50 MB x {SENT:.2f}: "
            f"{PUSHED_BITS * SENT / 1e9:.2f} Gbit/s"
        ),
        f"swarm: {SENT:.2f} layers sent to 16 mirrors",
        f"{PUSHED_BITS / 1e9:.2f} Gbit/s | each layer once",
        (
            f"with {measured('swarm', 'sent, layers', **THIRTY_TWO):.2f} layers sent and "
            f"{measured('swarm', 'x one alone', **THIRTY_TWO):.2f} times one machine"
        ),
    ],
)
def test_a_figure_is_computed_from_the_code_and_the_results(figure: str) -> None:
    assert figure in PAGE


def test_the_busiest_second_is_the_one_simulated() -> None:
    joining = measured("swarm_simulated", "calls/s", scenario="joining over one layer's time")

    assert f"| while machines join | {joining:.0f} |" in PAGE
