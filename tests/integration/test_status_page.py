"""The status page without a browser: access, content and escaping."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest

import web.image_search
from sql.history import Brews, JobRun, record_job_runs, record_sample
from sql.transaction import transaction
from tests.integration.sql.database import Database, digest_of
from tests.servers.layers import layer_bytes
from tests.servers.push import push_image, push_index
from tests.servers.registry import Registry
from tests.web_parts import NOON
from tests.web_server import Front, front_of
from tests.wsgi import Answer, call
from web.limits import DatabasePause

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture
def front(registry: Registry, tmp_path: Path) -> Iterator[Front]:
    with front_of(registry.netloc, tmp_path) as front:
        yield front


def database_of(front: Front) -> Database:
    return Database(front.parts.engine, front.parts.tables)


def ran(front: Front, *runs: JobRun) -> None:
    with transaction(front.parts.engine) as connection:
        record_job_runs(connection, front.parts.tables, runs)


def text_of(answer: Answer) -> str:
    """Return the visible text, with single spaces and without the style sheet."""
    body = re.sub(r"(?s)<style>.*?</style>|<title>[^<]*</title>|</?bdi>", "", answer.body.decode())
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.mark.parametrize(
    ("address", "real_ip", "status"),
    [
        ("127.0.0.1", None, 200),
        ("::1", None, 200),
        ("10.1.2.3", None, 403),
        ("10.1.2.3", "127.0.0.1", 403),
        ("127.0.0.1", "10.1.2.3", 403),
        ("127.0.0.1", "nonsense", 403),
    ],
)
def test_only_this_machine_sees_the_page_by_default(
    front: Front, registry: Registry, address: str, real_ip: str | None, status: int
) -> None:
    headers = {"X-Real-IP": real_ip} if real_ip else {}
    before = len(registry.requests())

    for path in ("/", "/?q=library/ubuntu:22.04"):
        answer = call(front.app, "GET", path, headers=headers, environ={"REMOTE_ADDR": address})
        assert answer.status == (404 if status == 200 and "q=" in path else status)
    # A search uses the service's own credentials at the registry.
    assert (len(registry.requests()) > before) == (status == 200)


def test_other_networks_may_be_admitted(registry: Registry, tmp_path: Path) -> None:
    settings = {"application": {"status_networks": ["10.0.0.0/8"]}}
    with front_of(registry.netloc, tmp_path, settings=settings) as front:
        assert call(front.app, "GET", "/", environ={"REMOTE_ADDR": "10.1.2.3"}).status == 200
        assert call(front.app, "GET", "/", environ={"REMOTE_ADDR": "127.0.0.1"}).status == 403


def test_a_new_installation_explains_the_next_steps(front: Front) -> None:
    text = text_of(front.get("/"))

    assert "Nothing failed" in text
    assert "No layers yet" in text


def test_health_is_that_of_healthz_in_one_line(front: Front) -> None:
    ran(front, JobRun("brew", NOON - 20, 5.0, "done", "brewed 3"))

    assert "Everything works database, registry, store and 1 job are well" in text_of(front.get("/"))


def test_a_failed_job_and_layers_that_were_set_aside_need_attention(front: Front) -> None:
    database = database_of(front)
    database.enqueue(digest_of("a"), now=NOON)
    database.set_aside(database.claim_one(now=NOON), now=NOON)
    ran(front, JobRun("brew", NOON - 20, 5.0, "failed", "S3 is down"))

    text = text_of(front.get("/"))

    assert "Needs attention" in text
    assert "job brew: failed: S3 is down 1 layer set aside after failures, see below" in text


def test_failures_are_shown_with_the_remedy(front: Front) -> None:
    database = database_of(front)
    database.enqueue(digest_of("a"), size=2_500_000, scope="library/ubuntu", now=NOON - 500)
    database.set_aside(database.claim_one(now=NOON), reason="it's gone", now=NOON - 120)
    database.enqueue(digest_of("b"), now=NOON - 400)
    database.retry(database.claim_one(now=NOON), reason="slow", next_try=NOON + 600, now=NOON - 30)

    text = text_of(front.get("/"))

    assert r"docker_torrents queue retry --reason 'it'\''s gone'" in text
    assert (
        f"30 s ago {digest_of('b').hex[:12]} library/ubuntu, size unknown 1 again in 10 min 0 s slow" in text
    )
    assert f"2 min ago {digest_of('a').hex[:12]} library/ubuntu, 2.50 MB 1 set aside it's gone" in text


def test_text_from_outside_never_becomes_markup(front: Front) -> None:
    database = database_of(front)
    database.enqueue(digest_of("a"), scope=HOSTILE, now=NOON)
    database.set_aside(database.claim_one(now=NOON, brewer=HOSTILE), reason=HOSTILE, now=NOON)
    ran(front, JobRun(HOSTILE, NOON, 1.0, "failed", HOSTILE))

    for path in ("/", f"/?q={digest_of('a')}", f"/?q={quote(HOSTILE)}", f"/?hours={quote(HOSTILE)}"):
        body = front.get(path).body.decode()
        assert "<script" not in body
        assert "<img" not in body
        assert "&lt;script&gt;" in body


def test_the_policy_allows_only_the_page_itself(front: Front) -> None:
    answer = front.get("/")

    policy = answer.headers["Content-Security-Policy"]
    [style] = re.findall(r"(?s)<style>(.*?)</style>", answer.body.decode())
    assert f"style-src 'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "script" not in policy
    assert not re.search(r"""(src|href|action)=["'](?!/|data:)""", answer.body.decode())
    assert " style=" not in answer.body.decode()
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("hours", [1, 6, 24, 168])
def test_charts_of_each_range_show_the_samples(front: Front, hours: int) -> None:
    with transaction(front.parts.engine) as connection:
        record_sample(connection, front.parts.tables, Brews(7, 60_000_000, 1), None, now=NOON)

    titles = re.findall(r"<title>(.*?)</title>", front.get(f"/?hours={hours}").body.decode())

    assert any(title.endswith(": 7 brewed, 1 failed") for title in titles)
    assert any(title.endswith(": 1 MB/s read") for title in titles)


def test_without_the_tables_of_a_newer_version_the_rest_is_shown(front: Front) -> None:
    database = database_of(front)
    database.enqueue(digest_of("a"))
    for table in (database.tables.history, database.tables.job_run, database.tables.failure):
        table.drop(database.engine)
    answer = front.get("/")
    assert answer.status == 200
    assert "Layers waiting 1 " in text_of(answer)
    assert "create it with `docker_torrents init-db`" in text_of(answer)


def test_the_page_reports_a_missing_database(front: Front) -> None:
    database_of(front).execute(f"ALTER TABLE {front.parts.tables.history.name} RENAME COLUMN minute TO away")

    answer = front.get("/")

    assert answer.status == 503
    assert "The database cannot be read" in text_of(answer)
    assert "Manifests go out without ids" in text_of(answer)
    assert answer.headers["Retry-After"] == "5"


def test_further_requests_do_not_delay_the_next_connection_to_the_database(
    registry: Registry, tmp_path: Path
) -> None:
    now = float(NOON)
    with front_of(registry.netloc, tmp_path, clock=lambda: now) as front:
        history = front.parts.tables.history.name
        database_of(front).execute(f"ALTER TABLE {history} RENAME COLUMN minute TO away")
        assert front.get("/").status == 503
        database_of(front).execute(f"ALTER TABLE {history} RENAME COLUMN away TO minute")
        now += DatabasePause.SECONDS / 2
        assert "it did not answer a moment ago" in text_of(front.get("/"))
        now += DatabasePause.SECONDS / 2
        assert front.get("/").status == 200


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("library/ubuntu", 404, "expected sha256:... or scope:tag"),
        ("Ubuntu:22.04", 404, "expected lower-case path components"),
        ("sha256:abc", 404, "is not a digest"),
        ("ü:%00x", 404, "is not a scope"),
        ("x" * 600, 404, "expected at most 512 characters"),
        (str(digest_of("unknown")), 404, "This layer is unknown"),
        ("library/no-such:latest", 404, "The registry has no such image"),
    ],
)
def test_a_search_without_a_result_explains_why(front: Front, text: str, status: int, said: str) -> None:
    answer = front.get(f"/?q={quote(text, safe='%:/')}")

    assert answer.status == status
    assert said in text_of(answer)


def test_a_search_shows_how_much_of_an_image_is_brewed(front: Front, registry: Registry, scope: str) -> None:
    image = push_image(registry, scope, "v1", [layer_bytes(30_000, 900), layer_bytes(10_000, 901)])
    database = database_of(front)
    database.enqueue(image.layers[0].digest, now=NOON)
    database.complete(database.claim_one(now=NOON), size=30_000, now=NOON)

    for reference in (f"{scope}:v1", f"{scope}@{image.digest}"):
        text = text_of(front.get(f"/?q={reference}"))
        assert "75 % 1 of 2 layers brewed, 30.0 kB of 40.0 kB" in text
        assert "unknown not in the queue" in text
    layer = text_of(front.get(f"/?q={image.layers[0].digest}"))
    assert "State brewed Id rbtorrent:" in layer


def test_a_layer_with_an_impossible_time_is_found(front: Front) -> None:
    table, digest = front.parts.tables.mapping.name, digest_of("a")
    database_of(front).execute(f"INSERT INTO {table} (digest, added) VALUES ('{digest}', 1700000000000)")

    assert "Added 1700000000000" in text_of(front.get(f"/?q={digest}"))


def test_a_search_looks_at_an_index_of_any_size_for_the_platforms_of_the_service(
    registry: Registry, tmp_path: Path, scope: str
) -> None:
    """As `show` and `scan-tags` do: images for other platforms cost neither time nor coverage."""
    other = push_image(registry, scope, None, [layer_bytes(1000, 911)]).descriptor
    others = [replace(other, platform=f"linux/a{number}") for number in range(50)]
    wanted = [push_image(registry, scope, None, [layer_bytes(10, 920 + n)]).descriptor for n in range(45)]
    push_index(registry, scope, "many", [*others, *wanted])
    settings = {"jobs": {"scan-tags": {"platforms": ["linux/amd64"]}}}
    with front_of(registry.netloc, tmp_path, settings=settings) as front:
        before = len(registry.requests())

        text = text_of(front.get(f"/?q={scope}:many"))

        assert len(registry.requests()) - before == 1 + 45
    assert "0 of 45 layers brewed" in text
    assert (
        "Platforms: linux/amd64 Not examined, as jobs.scan-tags.platforms does not name them: linux/a0"
        in text
    )
    assert "no time" not in text


def test_a_search_ends_when_its_time_is_up(
    front: Front, registry: Registry, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.image_search, "SECONDS", 0.0)
    image = push_image(registry, scope, None, [layer_bytes(1000, 910)])
    push_index(registry, scope, "many", [image.descriptor])

    text = text_of(front.get(f"/?q={scope}:many"))

    assert "There was no time to examine the whole index" in text
    assert "0 of 0 layers brewed" in text


def test_a_registry_that_is_down_is_named(tmp_path: Path) -> None:
    with front_of("127.0.0.1:1", tmp_path) as front:
        answer = front.get("/?q=library/ubuntu:22.04")

    assert answer.status == 502
    assert "The registry does not return this image" in text_of(answer)
