"""Commands of operators: roles, the queue, waiting for an image, checks, the database's schema."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import psycopg2
import pytest

from tests.installation import PROGRAM, Installation
from tests.servers.blackbox import start_blackbox
from tests.servers.layers import layer_bytes
from tests.servers.process import child_environment, free_port
from tests.servers.push import push_image, push_index
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true


@pytest.fixture
def installation(tmp_path: Path, registry: Registry) -> Installation:
    return Installation(tmp_path, registry)


def test_roles_are_granted_listed_and_revoked(installation: Installation) -> None:
    assert installation.last_line("role", "grant", "library/*", "team/app") == "granted 2, already granted 0"
    assert installation.last_line("role", "grant", "team/app") == "granted 0, already granted 1"
    assert [role["pattern"] for role in installation.json("role", "list")] == ["library/*", "team/app"]
    revoked = installation.run("role", "revoke", "team/app", "nobody", check=False)
    assert (revoked.returncode, revoked.stdout) == (1, "revoked 1, did not have it 1\n")
    assert revoked.stderr.endswith("nobody does not have the role: see `role list`\n")
    assert installation.run("role", "list").stdout.splitlines()[-1] == "roles 1"


def test_failures_are_listed_by_reason_and_retried_once_repaired(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    installation = Installation(tmp_path, registry, brewer={"max_attempts": 1})
    image = push_image(registry, scope, "v1", [layer_bytes(1000, 1001), layer_bytes(1000, 1002)])
    installation.run("backfill", "repository", scope)
    blob = registry.blob_file(image.layers[0].digest)
    content = blob.read_bytes()
    blob.unlink()
    installation.run("run", "brew", check=False)

    status = installation.json("queue", "status")
    assert (status["set_aside_count"], status["brewed_last_hour"]) == (1, 1)
    [reason] = status["set_aside"]
    assert "not found" in reason
    assert reason in installation.run("queue", "status").stdout

    blob.write_bytes(content)
    for action in ("retry", "drop"):
        nothing = installation.run("queue", action, "--reason", "no such reason", check=False)
        assert nothing.returncode == 1
        assert "no failure has a reason with 'no such reason'" in nothing.stderr
    assert installation.last_line("queue", "retry", "--reason", "NOT FOUND") == "queued again 1, manifests 0"
    assert installation.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"


def test_a_dropped_layer_is_found_again_by_a_backfill(
    installation: Installation, registry: Registry, scope: str
) -> None:
    [layer] = push_image(registry, scope, "v1", [layer_bytes(1000, 1003)]).layers
    installation.run("backfill", "repository", scope)

    assert installation.last_line("queue", "drop", "--digest", layer.digest) == "dropped 1, manifests 0"
    assert installation.run("queue", "drop", "--digest", layer.digest, check=False).returncode == 1
    assert installation.json("queue", "status")["waiting_count"] == 0
    assert installation.last_line("backfill", "repository", scope).startswith("queued 1 layers")


def test_manifests_set_aside_are_listed_by_reason_retried_and_dropped(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    installation = Installation(tmp_path, registry, brewer={"max_attempts": 1})
    installation.init_db()
    missing = f"sha256:{'0123456789abcdef' * 4}"
    database = sqlite3.connect(installation.state / "docker_torrents.sqlite")
    with database:
        database.execute(
            "INSERT INTO rbtorrent_mapping_manifest (scope, digest, priority, added, next_try) "
            "VALUES (?, ?, 1, 1, 1)",
            (scope, missing),
        )
    database.close()
    fails = installation.run("run", "resolve-manifests", check=False)
    assert fails.stdout.splitlines()[-1].endswith("delayed 0, set aside 1, waiting 0")

    manifests = installation.json("queue", "status")["manifests"]
    assert (manifests["waiting"], manifests["set_aside_count"]) == (0, 1)
    [reason] = manifests["set_aside"]
    assert reason.endswith(": not found")
    status_text = installation.run("queue", "status").stdout
    assert "manifests  0 to resolve, 1 set aside\n" in status_text
    assert f"        1 {reason}\n" in status_text

    tried = {"queued": 0, "manifests": 1, "kept": False}
    assert installation.json("queue", "retry", "--reason", "NOT FOUND") == tried
    assert installation.json("queue", "status")["manifests"]["waiting"] == 1
    installation.run("run", "resolve-manifests", check=False)
    assert installation.last_line("queue", "retry", "--digest", missing) == "queued again 0, manifests 1"
    assert installation.last_line("queue", "retry", "--all") == "queued again 0, manifests 0"
    installation.run("run", "resolve-manifests", check=False)
    assert installation.json("queue", "drop", "--reason", "not found") == {"dropped": 0, "manifests": 1}
    assert installation.run("queue", "drop", "--digest", missing, check=False).returncode == 1
    assert installation.json("queue", "status")["manifests"]["set_aside"] == {}


def test_an_image_is_shown_for_the_configured_or_requested_platforms(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    limited = Installation(tmp_path, registry, jobs={"scan-tags": {"platforms": ["linux/arm64"]}})
    children = [
        push_image(registry, scope, None, [layer_bytes(1000, seed)], platform=platform).descriptor
        for seed, platform in ((1007, "linux/amd64"), (1008, "linux/arm64"))
    ]
    push_index(registry, scope, "multi", children)
    image = f"{scope}:multi"

    shown = limited.json("show", image)
    assert (shown["platforms"], shown["platforms_left_out"]) == (["linux/arm64"], ["linux/amd64"])
    shown = limited.json("show", image, "--platform", "linux/amd64", "--platform", "linux/arm64")
    assert (shown["platforms"], shown["layers_total"]) == (["linux/amd64", "linux/arm64"], 2)

    limited.run("role", "grant", scope)
    limited.run("run", "scan-tags")
    limited.run("run", "brew")
    assert limited.run("show", "--wait", image).stdout.splitlines()[-2:-1] == [
        "platforms linux/arm64, left out linux/amd64"
    ]
    ended = limited.run("show", "--wait", "--timeout", "1", "--platform", "linux/s390x", image, check=False)
    assert ended.returncode == 1
    assert "no image for linux/s390x" in ended.stdout


def test_waiting_for_an_image_ends_when_it_is_completely_brewed(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1004)])
    installation.run("backfill", "repository", scope)

    def looks() -> int:
        return sum(path.endswith(f"/{scope}/manifests/v1") for _, path, _ in registry.requests())

    before = looks()
    with installation.process("show", "--wait", "--timeout", "240", f"{scope}:v1", name="waiting") as waiting:
        assert comes_true(lambda: looks() >= before + 2)
        assert waiting.alive

        installation.run("run", "brew")

        assert waiting.exit_status() == 0
    assert "brewed 1 of 1 layers" in (installation.folder / "waiting.log").read_text()


def test_waiting_fails_after_its_time_and_names_what_is_missing(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1005)])

    ended = installation.run("show", "--wait", "--timeout", "1", f"{scope}:v1", check=False)

    assert ended.returncode == 1
    assert "unknown: not in the queue" in ended.stdout
    assert "brewed 0 of 1 layers" in ended.stdout


def test_waiting_ends_at_once_if_everything_missing_was_set_aside(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    installation = Installation(tmp_path, registry, brewer={"max_attempts": 1})
    image = push_image(registry, scope, "v1", [layer_bytes(1000, 1009)])
    installation.run("backfill", "repository", scope)
    registry.blob_file(image.layers[0].digest).unlink()
    installation.run("run", "brew", check=False)

    for what in (f"{scope}:v1", image.layers[0].digest):
        ended = installation.run("show", "--wait", "--timeout", "500", what, check=False, timeout=120)
        assert ended.returncode == 1
        assert "not found" in ended.stdout


def test_waiting_outlasts_a_registry_that_is_down(tmp_path: Path, scope: str) -> None:
    port = free_port()
    installation = Installation(tmp_path, f"127.0.0.1:{port}")
    words = ("--debug", "show", "--wait", "--timeout", "240", f"{scope}:v1")
    with installation.process(*words, name="waiting") as waiting:
        log = tmp_path / "waiting.log"
        assert comes_true(lambda: log.read_text().count("no answer method=") >= 2)
        assert waiting.alive


def test_a_platform_that_an_image_lacks_is_reported(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1010)], platform="linux/arm64")

    ended = installation.run("show", "--platform", "linux/amd64", f"{scope}:v1", check=False)

    assert ended.returncode == 1
    assert "no image for linux/amd64" in ended.stdout
    assert installation.run("show", "--platform", "linux/arm64", f"{scope}:v1").returncode == 0


def test_a_digest_that_is_left_unchanged_is_explained(
    installation: Installation, registry: Registry, scope: str
) -> None:
    [layer] = push_image(registry, scope, "v1", [layer_bytes(1000, 1011)]).layers
    unknown = installation.run("queue", "retry", "--digest", layer.digest, check=False)
    assert (unknown.returncode, "is unknown" in unknown.stderr) == (1, True)

    installation.run("backfill", "repository", scope)
    waits = installation.run("queue", "retry", "--digest", layer.digest, check=False)
    assert (waits.returncode, "waits already" in waits.stderr) == (1, True)

    with sqlite3.connect(installation.state / "docker_torrents.sqlite") as database:
        database.execute("UPDATE rbtorrent_mapping SET brew_lock = 1")
        database.execute("UPDATE rbtorrent_mapping_queue SET claimed = 1, brewer = 'somewhere:1'")
    database.close()
    held = installation.run("queue", "drop", "--digest", layer.digest, check=False)
    assert (held.returncode, "is being brewed by somewhere:1" in held.stderr) == (1, True)

    installation.run("run", "release-locks")
    with sqlite3.connect(installation.state / "docker_torrents.sqlite") as database:
        database.execute("UPDATE rbtorrent_mapping_queue SET next_try = 0")
    database.close()
    installation.run("run", "brew")
    brewed = installation.run("queue", "drop", "--digest", layer.digest, check=False)
    assert (brewed.returncode, "nothing to drop" in brewed.stderr) == (1, True)


def test_a_glob_that_matches_nothing_or_still_grants_is_reported(
    installation: Installation, scope: str
) -> None:
    nothing = installation.run("backfill", "catalog", "no-such-*", check=False)
    assert nothing.returncode == 1
    assert "no repository in the registry's catalog matches pattern=no-such-*" in nothing.stderr

    installation.run("role", "grant", "library/*", "library/ubuntu")
    revoked = installation.run("role", "revoke", "library/ubuntu")
    assert "library/ubuntu still has the role through library/*" in revoked.stderr


def test_an_unknown_layer_or_image_is_reported(installation: Installation, scope: str) -> None:
    unknown = installation.run("show", "sha256:" + "0" * 64, check=False)
    nowhere = installation.run("show", f"{scope}:v1", check=False)

    assert (unknown.returncode, nowhere.returncode) == (1, 1)
    assert "is unknown" in unknown.stderr
    assert f"manifest {scope}:v1: not found" in nowhere.stderr


def test_check_has_a_line_for_each_dependency(installation: Installation) -> None:
    lines = installation.run("check").stdout.splitlines()

    assert [line.split()[:2] for line in lines[:-1]] == [
        ["ok", "database"],
        ["ok", "registry"],
        ["ok", "layers"],
        ["ok", "metainfo"],
        ["skipped", "tracker"],
        ["skipped", "web"],
        ["skipped", "events"],
    ]
    assert lines[-1] == "checked 4, failed 0, skipped 3"


def test_check_probes_blackbox_where_it_authorises(tmp_path: Path, registry: Registry) -> None:
    with start_blackbox() as blackbox:
        section = {"url_template": blackbox.url_template, "read_timeout": 60}
        asking = Installation(tmp_path, registry, blackbox=section)
        lines = asking.run("check").stdout.splitlines()

        assert lines[4].startswith("ok      blackbox   ")
        assert lines[-1] == "checked 5, failed 0, skipped 3"
        assert len(blackbox.questions) == 1


def test_check_reports_everything_that_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = Installation(
        tmp_path / "broken",
        f"127.0.0.1:{free_port()}",
        db={"host": "127.0.0.1", "port": free_port(), "database": "d", "password": "hush-hush"},
        torrents={"directory": str(tmp_path / "file" / "metainfo")},
        brewer={"brew_user": "u", "brew_password": "hush-hush"},
        blackbox={"url_template": f"http://127.0.0.1:{free_port()}/blackbox?{{payload}}"},
    )

    ended = broken.run("check", check=False)

    assert ended.returncode == 1
    *lines, last = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["failed"] * 5 + ["skipped"] * 3
    assert last == "checked 5, failed 5, skipped 3"
    assert "hush-hush" not in ended.stdout + ended.stderr


def test_the_schema_can_be_printed_and_run_by_another_user(
    tmp_path: Path, registry: Registry, scope: str, postgres_url: str
) -> None:
    installation = Installation(tmp_path, registry, db={"url": postgres_url})
    printed = installation.run("init-db", "--print").stdout
    connection = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
    with connection, connection.cursor() as cursor:
        cursor.execute(printed)
        cursor.execute(printed)
    connection.close()

    assert installation.last_line("init-db") == "created 0, still missing 0"


def test_printing_the_schema_touches_nothing(installation: Installation) -> None:
    printed = installation.run("init-db", "--print").stdout

    assert not (installation.state / "docker_torrents.sqlite").exists()
    database = sqlite3.connect(":memory:")
    database.executescript(printed)
    assert database.execute("SELECT count(*) FROM rbtorrent_mapping").fetchone() == (0,)
    database.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("docker_registry: [", "not YAML"),
        ("docker_registry: {host: a}\nbrewer: {wrokers: 3}", "brewer.wrokers: unknown key"),
        (
            "docker_registry: {host: a, read_timeout: -2}",
            "docker_registry.read_timeout: expected more than 0",
        ),
        ("docker_registry: {host: a}\njobs: {scan-tags: {cron: 'no such time'}}", "jobs.scan-tags.cron"),
        ("docker_registry: {host: a}\ndb: {url: 'mysql://host/name'}", "db.url: mysql:// is not supported"),
    ],
)
def test_an_unusable_configuration_is_reported_and_exits_with_2(
    tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)

    ended = subprocess.run(
        [PROGRAM, "-c", config, "scheduler"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_answer_is_json_whatever_is_requested(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1006)])

    for words in (
        ("role", "list"),
        ("queue", "status"),
        ("queue", "retry", "--all"),
        ("queue", "retry", "--lost"),
        ("queue", "drop", "--all"),
        ("show", f"{scope}:v1"),
    ):
        assert json.loads(installation.run(*words, "--json").stdout) is not None
