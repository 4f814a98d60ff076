"""Database URLs: which queries are refused."""

from __future__ import annotations

import pytest

from sql.engine import check_url


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("timeout=soon", "expected a number of seconds"),
        ("timeout=-1", "expected a number of seconds"),
        ("timeout=1&timeout=2", "expected a number of seconds"),
        ("mode=ro", "mode= has no effect on SQLite"),
    ],
)
def test_an_option_without_effect_on_sqlite_is_refused(query: str, message: str) -> None:
    check_url("sqlite:///queue.sqlite?timeout=2.5")

    with pytest.raises(ValueError, match=message):
        check_url(f"sqlite:///queue.sqlite?{query}")


def test_an_option_that_libpq_does_not_have_is_refused() -> None:
    check_url("postgresql://user:secret@host/queue?sslmode=require&host=a:1&host=b:2")

    with pytest.raises(ValueError, match=r"\?sslmod= is not an option of PostgreSQL's libpq"):
        check_url("postgresql://user:secret@host/queue?sslmod=require")
