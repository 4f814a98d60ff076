"""Paginated lists, from hand-written answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import islice

import pytest

from core.errors import BadAnswer, Refused
from core.http.client import HttpAnswer
from core.http.headers import Headers
from core.http.url import parse_url
from core.names import parse_tag
from core.registry.pages import MAX_PAGES, read_pages

BASE = "https://registry.example.com/v2/a/tags/list"


class Pages:
    """A registry's pages by URL: the tags, and the value of Link or None."""

    def __init__(self, pages: dict[str, tuple[object, str | None]]) -> None:
        self.pages = pages
        self.asked: list[str] = []

    def fetch(self, url: str) -> HttpAnswer:
        self.asked.append(url)
        tags, link = self.pages[url]
        headers = Headers([("Link", link)] if link is not None else [])
        return HttpAnswer(200, headers, json.dumps({"name": "a", "tags": tags}).encode(), parse_url(url))

    def read(self, *, complete: bool = False) -> Iterator[str]:
        return read_pages(BASE, self.fetch, "tags", parse_tag, complete=complete)


def one_page(body: bytes) -> Iterator[str]:
    return read_pages(BASE, lambda url: HttpAnswer(200, Headers(), body, parse_url(url)), "tags", parse_tag)


@pytest.mark.parametrize(
    "link",
    [
        '</v2/a/tags/list?last=b&n=2>; rel="next"',
        "</v2/a/tags/list?last=b&n=2>; rel=next",
        '<?last=b&n=2>; rel="next"',
        '<list?last=b&n=2>;rel="next"',
        '<https://registry.example.com/v2/a/tags/list?last=b&n=2>; rel="next"',
        '<http://registry.example.com:80/v2/a/tags/list?last=b&n=2>; rel="next"',
        '</first>; rel="first", </v2/a/tags/list?last=b&n=2>; title="a, <b>"; rel="prefetch next"',
    ],
)
def test_pages_are_read_one_after_the_other(link: str) -> None:
    pages = Pages({f"{BASE}?n=1000": (["a", "b"], link), f"{BASE}?last=b&n=2": (["c"], None)})
    assert list(pages.read()) == ["a", "b", "c"]
    assert len(pages.asked) == 2


def test_a_page_is_fetched_only_when_it_is_needed() -> None:
    pages = Pages({f"{BASE}?n=1000": (["a", "b"], "<?last=b>; rel=next"), f"{BASE}?last=b": (["c"], None)})
    reading = pages.read()
    assert [next(reading), next(reading)] == ["a", "b"]
    assert len(pages.asked) == 1


def test_a_list_may_be_empty_or_null_and_have_a_next_page() -> None:
    pages = Pages(
        {
            f"{BASE}?n=1000": (None, "<?last=1>; rel=next"),
            f"{BASE}?last=1": ([], "<?last=2>; rel=next"),
            f"{BASE}?last=2": (["a"], None),
        }
    )
    assert list(pages.read()) == ["a"]


def test_a_link_with_another_relation_ends_the_list() -> None:
    assert list(Pages({f"{BASE}?n=1000": (["a"], '</v2/>; rel="first"')}).read()) == ["a"]


@pytest.mark.parametrize("link", ["</v2/a/tags/list?n=1000>; rel=next", "<?n=1000>; rel=next"])
def test_a_list_whose_next_page_repeats_is_a_bad_answer(link: str) -> None:
    reading = Pages({f"{BASE}?n=1000": (["a"], link)}).read()
    assert next(reading) == "a"
    with pytest.raises(BadAnswer, match="lead back"):
        next(reading)


def test_an_endless_list_is_a_bad_answer() -> None:
    def fetch(url: str) -> HttpAnswer:
        number = int(url.partition("=")[2])
        headers = Headers([("Link", f"<?n={number + 1}>; rel=next")])
        return HttpAnswer(200, headers, b'{"tags": ["a"]}', parse_url(url))

    reading = read_pages(BASE, fetch, "tags", parse_tag)
    assert list(islice(reading, MAX_PAGES)) == ["a"] * MAX_PAGES
    with pytest.raises(BadAnswer, match=f"more than {MAX_PAGES} pages"):
        next(reading)


def test_a_link_to_another_host_is_refused() -> None:
    link = '<https://elsewhere.example.com/v2/a/tags/list?last=b>; rel="next"'
    with pytest.raises(BadAnswer, match="another host"):
        list(Pages({f"{BASE}?n=1000": (["a"], link)}).read())


@pytest.mark.parametrize(
    "link",
    [
        "/v2/a/tags/list?last=b",
        '</v2/a; rel="next"',
        "next",
        '<file:///etc/passwd>; rel="next"',
        "<" + "a" * 60_000 + ">; rel=next",
    ],
)
def test_a_broken_link_is_an_error_not_the_end(link: str) -> None:
    with pytest.raises(BadAnswer):
        list(Pages({f"{BASE}?n=1000": (["a"], link)}).read())


def test_invalid_names_are_skipped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    odd: list[object] = ["good", "../../etc", "a b", 5, None, ["x"], "", "a" * 129, "also.good"]
    with caplog.at_level(logging.WARNING):
        assert list(Pages({f"{BASE}?n=1000": (odd, None)}).read()) == ["good", "also.good"]
    [record] = caplog.records
    assert "number=7" in record.getMessage()
    assert "'../../etc' is not a tag" in record.getMessage()


def test_an_invalid_name_in_a_list_that_must_be_complete_is_an_error() -> None:
    pages = Pages({f"{BASE}?n=1000": (["good", "Upper/case:tag"], None)})
    with pytest.raises(BadAnswer, match="Upper/case:tag"):
        list(pages.read(complete=True))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no tags"),
        (b"{}", "no tags"),
        (b'{"tags": "a"}', "no tags"),
        (b'{"tags": {"a": 1}}', "no tags"),
        (b'{"tags": 0}', "no tags"),
        (b'{"repositories": []}', "no tags"),
    ],
)
def test_a_page_that_is_not_a_list_is_a_bad_answer(body: bytes, why: str) -> None:
    with pytest.raises(BadAnswer, match=why):
        list(one_page(body))


def test_a_registry_with_a_lower_limit_may_choose_the_page_size() -> None:
    def fetch(url: str) -> HttpAnswer:
        if "n=" in url:
            raise Refused(url, 400, "invalid number of results requested")
        return HttpAnswer(200, Headers(), b'{"tags": ["a"]}', parse_url(url))

    assert list(read_pages(BASE, fetch, "tags", parse_tag)) == ["a"]


def test_a_refusal_is_passed_on() -> None:
    def fetch(url: str) -> HttpAnswer:
        raise Refused(url, 401, "no")

    with pytest.raises(Refused):
        list(read_pages(BASE, fetch, "tags", parse_tag))


def test_a_hundred_thousand_tags_in_one_page() -> None:
    tags = [f"tag-{number}" for number in range(100_000)]
    assert list(one_page(json.dumps({"tags": tags}).encode())) == tags
