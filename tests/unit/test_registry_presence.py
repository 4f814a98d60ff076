"""Checking for layers in a registry: a layer is missing only if every repository answers 404."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from core.blobs.presence import RegistryPresence
from core.digest import Digest
from core.errors import (
    BadAnswer,
    NotFound,
    Refused,
    RemoteError,
    TimedOut,
    Unavailable,
)
from core.layer import Layer

A, B, C = (Digest(sign * 64) for sign in "abc")

TROUBLE: dict[str, RemoteError] = {
    "401": Refused("r", 401, "it wants other credentials"),
    "403": Refused("r", 403, "access is denied"),
    "405": Refused("r", 405, "it does not allow this call"),
    "500": Unavailable("r", "it answers 500"),
    "429": Unavailable("r", "it answers 429", 30),
    "time-out": TimedOut("r", 30),
    "a web page": BadAnswer("r", "a web page instead of the registry's answer"),
}


class Blobs:
    """A registry's blobs by repository; some repositories, or the catalog, fail."""

    def __init__(self, blobs: dict[str, set[Digest]], catalog: RemoteError | None = None) -> None:
        self.blobs = blobs
        self.catalog = catalog
        self.broken: dict[str, RemoteError] = {}
        self.down = False
        self.asked: list[tuple[str, Digest]] = []
        self.listed = 0
        self.pushed: dict[int, Callable[[], object]] = {}

    def ping(self) -> str:
        if self.down:
            raise TROUBLE["500"]
        return "answers"

    def blob_size(self, scope: str, digest: Digest) -> int:
        self.asked.append((scope, digest))
        if scope in self.broken:
            raise self.broken[scope]
        if digest not in self.blobs.get(scope, set()):
            raise NotFound(f"blob {digest} in {scope}")
        return 1

    def list_repositories(self, *, complete: bool) -> Iterator[str]:
        assert complete
        self.listed += 1
        self.pushed.get(self.listed, lambda: None)()
        yield from list(self.blobs)[:2]
        if self.catalog is not None:
            raise self.catalog
        yield from list(self.blobs)[2:]

    def before_listing(self, number: int, push: Callable[[], object]) -> None:
        """Call `push` before the catalog is listed for the `number`th time."""
        self.pushed[number] = push


def everywhere(registry: Blobs, *digests: Digest, max_requests: int = 1000) -> dict[Digest, str]:
    layers = [Layer(digest) for digest in digests]
    results = RegistryPresence(registry, max_requests).locate_everywhere(layers, lambda: False)
    return {result.layer.digest: result.presence for result in results}


def test_a_layer_is_present_if_one_of_its_repositories_has_it() -> None:
    registry = Blobs({"one": set(), "two": {A}, "three": {A}})
    result = RegistryPresence(registry).locate(Layer(A, ("one", "two", "three")))
    assert (result.presence, result.scope) == ("there", "two")
    assert registry.asked == [("one", A), ("two", A)]


def test_a_layer_is_absent_if_all_its_repositories_answer_404() -> None:
    registry = Blobs({"one": set(), "two": set(), "other": {A}})
    assert RegistryPresence(registry).locate(Layer(A, ("one", "two", "deleted"))).presence == "missing"


@pytest.mark.parametrize("trouble", TROUBLE)
def test_one_repository_that_does_not_answer_makes_it_unknown(trouble: str) -> None:
    registry = Blobs({"one": set(), "two": set(), "three": set()})
    registry.broken["two"] = TROUBLE[trouble]
    result = RegistryPresence(registry).locate(Layer(A, ("one", "two", "three")))
    assert result.presence == "unanswered"
    assert result.error is TROUBLE[trouble]


def test_present_overrides_a_repository_that_does_not_answer() -> None:
    registry = Blobs({"one": set(), "two": {A}})
    registry.broken["one"] = TROUBLE["500"]
    assert RegistryPresence(registry).locate(Layer(A, ("one", "two"))).presence == "there"


def test_everywhere_is_every_repository_of_the_catalog() -> None:
    registry = Blobs({"one": {A}, "two": set(), "three": {C}})
    assert everywhere(registry, A, B, C) == {A: "there", B: "missing", C: "there"}


def test_a_repository_that_has_it_is_named() -> None:
    registry = Blobs({"one": set(), "two": {A}})
    [result] = RegistryPresence(registry).locate_everywhere([Layer(A)], lambda: False)
    assert result.scope == "two"


@pytest.mark.parametrize("trouble", TROUBLE)
def test_without_the_whole_catalog_no_layer_counts_as_missing(trouble: str) -> None:
    # It fails after the first page.
    registry = Blobs({"one": set(), "two": set(), "three": {A}}, catalog=TROUBLE[trouble])
    assert everywhere(registry, A, B) == {A: "unanswered", B: "unanswered"}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_while_one_repository_does_not_answer_no_layer_counts_as_missing(trouble: str) -> None:
    registry = Blobs({"one": {A}, "two": set(), "three": set()})
    registry.broken["two"] = TROUBLE[trouble]
    assert everywhere(registry, A, B) == {A: "there", B: "unanswered"}


def test_an_empty_catalog_does_not_count() -> None:
    assert everywhere(Blobs({}), A) == {A: "unanswered"}


def test_a_run_makes_no_more_requests_than_its_budget() -> None:
    registry = Blobs({f"scope{number}": set() for number in range(10)})
    assert everywhere(registry, A, B, C, max_requests=25) == {A: "missing", B: "missing"}
    assert len(registry.asked) == 20


def test_one_layer_is_checked_even_beyond_the_budget() -> None:
    registry = Blobs({f"scope{number}": set() for number in range(10)})
    assert everywhere(registry, A, B, max_requests=3) == {A: "missing"}


def test_a_layer_pushed_to_a_repository_created_during_the_check_is_present() -> None:
    registry = Blobs({"one": set(), "two": set()})
    registry.before_listing(2, lambda: registry.blobs.update(new={B}))
    assert everywhere(registry, A, B, C) == {A: "missing", B: "there", C: "missing"}
    assert registry.asked[6:] == [("new", A), ("new", B), ("new", C)]


def test_the_catalog_is_listed_until_it_has_nothing_new() -> None:
    registry = Blobs({"one": set()})
    registry.before_listing(2, lambda: registry.blobs.update(two=set()))
    registry.before_listing(3, lambda: registry.blobs.update(three={A}))
    assert everywhere(registry, A, B) == {A: "there", B: "missing"}
    assert registry.listed == 4


def test_a_layer_that_was_found_needs_no_second_listing() -> None:
    registry = Blobs({"one": {A}})
    assert everywhere(registry, A) == {A: "there"}
    assert registry.listed == 1


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_catalog_that_cannot_be_listed_again_makes_it_unknown(trouble: str) -> None:
    registry = Blobs({"one": set(), "two": {B}})
    registry.before_listing(2, lambda: setattr(registry, "catalog", TROUBLE[trouble]))
    assert everywhere(registry, A, B) == {A: "unanswered", B: "there"}


def test_a_catalog_that_is_empty_the_second_time_does_not_count() -> None:
    registry = Blobs({"one": set()})
    registry.before_listing(2, registry.blobs.clear)
    assert everywhere(registry, A) == {A: "unanswered"}


def test_a_new_repository_that_does_not_answer_makes_it_unknown() -> None:
    registry = Blobs({"one": set()})
    registry.broken["new"] = TROUBLE["500"]
    registry.before_listing(2, lambda: registry.blobs.update(new=set()))
    assert everywhere(registry, A) == {A: "unanswered"}


@pytest.mark.parametrize("trouble", ["500", "time-out"])
def test_a_registry_that_is_down_gets_few_requests(trouble: str) -> None:
    registry = Blobs({f"scope{number}": set() for number in range(1000)})
    registry.down = True
    registry.broken = dict.fromkeys(registry.blobs, TROUBLE[trouble])
    registry.broken.pop("scope0")
    registry.blobs["scope0"] = {A}
    assert everywhere(registry, A, B, C, max_requests=100_000) == {
        A: "there",
        B: "unanswered",
        C: "unanswered",
    }
    assert len(registry.asked) < 30


def test_broken_repositories_in_a_row_do_not_hide_the_next_one() -> None:
    registry = Blobs({f"scope{number:02}": set() for number in range(50)})
    registry.broken = dict.fromkeys(list(registry.blobs)[:45], TROUBLE["500"])
    registry.blobs["scope49"] = {A}
    assert everywhere(registry, A, B) == {A: "there", B: "unanswered"}


def test_refusals_count_as_answers() -> None:
    registry = Blobs({f"scope{number}": set() for number in range(50)})
    registry.broken = dict.fromkeys(list(registry.blobs)[:40], TROUBLE["403"])
    registry.blobs["scope49"] = {A}
    assert everywhere(registry, A, B) == {A: "there", B: "unanswered"}


def test_a_check_ends_when_stopped() -> None:
    registry = Blobs({f"scope{number}": set() for number in range(10)})
    layers = [Layer(digest) for digest in (A, B)]
    results = list(RegistryPresence(registry).locate_everywhere(layers, lambda: len(registry.asked) == 5))
    assert (results, len(registry.asked)) == ([], 5)
