"""Database URLs: what is refused, and that no part of a password is shown."""

from __future__ import annotations

import pytest

from sql.engine import check_url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cr@t@db.example/queue",
        "postgresql://user:s3cr/t@db.example/queue",
        "postgresql://user:s3cr#t@db.example/queue",
        "postgresql://user:s3cr?t@db.example/queue",
        "postgresql://user:12/s3cr@db.example:5432/queue",
        "postgresql://user@s3cr:t@db.example/queue",
        "postgresql://user:s3@cr/t@db.example/queue",
    ],
)
def test_an_unescaped_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="write %40") as caught:
        check_url(url)
    assert "s3" not in str(caught.value)
    assert "cr" not in str(caught.value).replace("unescaped", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cr%40t%2F%23@db.example:5432/queue",
        "postgresql://user@db.example/queue?application_name=a@b",
        "postgresql://db.example:5432/queue?application_name=a@b",
        "postgresql://[::1]:5432/queue",
        "postgresql://user:pass@[::1]/queue",
        "postgresql:///queue?host=/var/run/postgresql",
        "postgresql://user:pass@a:1,b:2/queue",
        "sqlite:///queue@home.sqlite",
        "sqlite:////var/lib/queue.sqlite",
    ],
)
def test_other_urls_are_taken(url: str) -> None:
    try:
        check_url(url)
    except ValueError as error:
        assert "write %40" not in str(error)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("timeout=soon", "expected a number of seconds"),
        ("timeout=-1", "expected a number of seconds"),
        ("timeout=1&timeout=2", "expected a number of seconds"),
        ("mode=ro", "mode= has no effect on SQLite"),
    ],
)
def test_what_has_no_effect_on_a_sqlite_file_is_refused(query: str, told: str) -> None:
    check_url("sqlite:///queue.sqlite?timeout=2.5")

    with pytest.raises(ValueError, match=told):
        check_url(f"sqlite:///queue.sqlite?{query}")
