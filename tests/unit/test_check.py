"""`check` prints a line for each dependency, whatever the others raise, and a summary."""

from __future__ import annotations

from pathlib import Path

from core.config.config import Config
from core.errors import DatabaseDown, TimedOut
from core.probing import Skipped, check, tls_probes
from jobs.check import probes
from jobs.service import Service


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


def test_an_address_that_cannot_be_used_fails_its_own_line() -> None:
    lines: list[str] = []

    summary = check(
        tls_probes(["https://a b/", "http://plain/", "https://a b/announce"], None, False), lines.append
    )

    assert lines == ["failed  tls        ValueError: it has characters that are not allowed in a URL"]
    assert str(summary) == "checked 1, failed 1"


def test_what_the_configuration_names_in_vain_fails_its_own_lines(tmp_path: Path) -> None:
    """Without its trust store nothing is asked, but every line is there."""
    config = Config.model_validate(
        {
            "docker_registry": {"host": "registry.invalid"},
            "application": {"state_dir": tmp_path},
            "blackbox": {"url_template": "https://blackbox.invalid/blackbox?{payload}"},
            "torrents": {"trackers": ["https://tracker.invalid/announce"]},
            "tls": {"ca_file": tmp_path / "absent.pem"},
        }
    )
    lines: list[str] = []

    check(probes(Service(config)), lines.append)

    failed = [line.split()[1] for line in lines if line.startswith("failed") and "absent.pem" in line]
    assert failed == ["registry", "layers", "blackbox", "tls", "tls", "tls", "tracker"]
    assert [line.split()[1] for line in lines][-2:] == ["web", "events"]
