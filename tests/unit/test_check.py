"""`check` prints a line for each dependency, whatever the others raise, and a summary."""

from __future__ import annotations

from core.errors import DatabaseDown, TimedOut
from core.probing import Skipped, check


def no_host() -> str:
    raise DatabaseDown("db1:5432: it is read-only; db2:5432: Connection refused")


def no_answer() -> str:
    raise TimedOut("registry:5000", 2.0)


def test_every_dependency_gets_its_line() -> None:
    lines: list[str] = []
    probes = [("database", no_host), ("registry", no_answer), ("layers", lambda: "all there")]
    probes.append(("web seed", lambda: Skipped("no layer is brewed yet")))

    summary = check(probes, lines.append)

    assert lines == [
        "failed  database   the database is down: db1:5432: it is read-only; db2:5432: Connection refused",
        "failed  registry   registry:5000: timed out after 2 s",
        "ok      layers     all there",
        "skipped web seed   no layer is brewed yet",
    ]
    assert str(summary) == "checked 3, failed 2, skipped 1"
    assert summary.failed == 2
