"""Notifications: which layers and manifests each event queues."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from core.event_plan import Plan, plan
from core.events import parse_events
from core.layer import Layer
from core.manifests.media_types import (
    ALL_MANIFESTS,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    OCI_INDEX,
    OCI_MANIFEST,
)
from tests.notifications import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    EXAMPLE,
    EXAMPLE_LAYER,
    FIXTURES,
    OCI_LAYER,
    A,
    B,
    C,
    D,
    envelope,
    event,
    reference,
)


def planned(*events: Any, roles: tuple[str, ...] = ("library/test",)) -> Plan:
    return plan(parse_events(envelope(*events)), lambda scope: scope in roles)


def test_the_example_queues_its_layer_and_nothing_else() -> None:
    notification = parse_events(EXAMPLE.read_bytes())
    wanted = plan(notification, lambda scope: scope == "library/test")
    # Its two events differ in length, so the layer's size is not known.
    assert wanted == Plan((), (), (), malformed=((EXAMPLE_LAYER, "library/test"),))
    assert notification.skipped == ()


def test_the_example_queues_nothing_for_a_scope_without_the_role() -> None:
    notification = parse_events(EXAMPLE.read_bytes())
    assert not plan(notification, lambda scope: False)


def test_of_a_real_registrys_events_only_the_pushed_manifest_is_used() -> None:
    lines = (FIXTURES / "registry-2.8.2-events.jsonl").read_bytes().splitlines()
    plans = [plan(parse_events(line), lambda scope: True) for line in lines]
    manifest = Digest.parse("sha256:8a49458ea4dad7f7d17c1454ea92fece474d8df2e5b7d62b27f1acc9bf484ab6")
    assert [one for one in plans if one] == [Plan((), (("library/test", manifest),), ())]


@pytest.mark.parametrize("action", ["push", "mount"])
@pytest.mark.parametrize("media_type", ALL_MANIFESTS)
def test_a_manifest_without_references_is_queued_for_resolving(action: str, media_type: str) -> None:
    assert planned(event(action, mediaType=media_type)) == Plan((), (("library/test", Digest.parse(A)),), ())


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
def test_an_images_references_queue_its_layers_but_not_its_config(media_type: str) -> None:
    references = [reference(B, DOCKER_CONFIG), reference(C), reference(D, OCI_LAYER, size=7)]
    wanted = planned(event(mediaType=media_type, references=references))
    assert wanted.layers == (
        Layer(Digest.parse(C), ("library/test",), 100),
        Layer(Digest.parse(D), ("library/test",), 7),
    )
    assert wanted.manifests == ()
    assert wanted.known == (("library/test", Digest.parse(A)),)


@pytest.mark.parametrize("media_type", [DOCKER_LIST, OCI_INDEX])
def test_a_list_with_references_is_still_resolved(media_type: str) -> None:
    wanted = planned(event(mediaType=media_type, references=[reference(B, DOCKER_MANIFEST)]))
    assert wanted == Plan((), (("library/test", Digest.parse(A)),), ())


def test_a_manifest_with_an_invalid_reference_is_queued_for_resolving() -> None:
    for broken in [reference(C) | {"digest": "../../etc"}, 7, None, {}]:
        wanted = planned(event(references=[reference(B, DOCKER_CONFIG), broken]))
        assert wanted == Plan((), (("library/test", Digest.parse(A)),), ())


@pytest.mark.parametrize(
    "left_out",
    [
        reference(C, urls=["https://example.com/layer"]),
        reference(C, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        reference(C, "application/vnd.oci.image.layer.nondistributable.v1.tar"),
        reference(C, "application/vnd.in-toto+json"),
        reference(C, size=0),
        reference(C, DOCKER_CONFIG),
        reference(C, DOCKER_MANIFEST),
    ],
)
def test_layers_that_cannot_or_need_not_be_brewed_are_skipped(left_out: dict[str, Any]) -> None:
    wanted = planned(event(references=[reference(B, DOCKER_CONFIG), left_out, reference(D)]))
    assert [layer.digest for layer in wanted.layers] == [Digest.parse(D)]


def test_layers_of_custom_media_types_are_layers() -> None:
    chart = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    config = "application/vnd.cncf.helm.config.v1+json"
    wanted = planned(event(mediaType=OCI_MANIFEST, references=[reference(B, config), reference(C, chart)]))
    assert [layer.digest for layer in wanted.layers] == [Digest.parse(C)]


@pytest.mark.parametrize(
    "media_type",
    [DOCKER_LAYER, OCI_LAYER, "application/vnd.docker.container.image.rootfs.diff+x-gtar"],
)
@pytest.mark.parametrize("action", ["push", "mount"])
def test_a_blob_with_the_media_type_of_a_layer_is_queued(action: str, media_type: str) -> None:
    wanted = planned(event(action, mediaType=media_type, size=7))
    assert wanted == Plan((Layer(Digest.parse(A), ("library/test",), 7),), (), ())


@pytest.mark.parametrize(
    "media_type", ["application/octet-stream", DOCKER_CONFIG, DOCKER_SCHEMA1, "", "text/html", ..., 7, None]
)
def test_a_blob_with_another_media_type_is_ignored(media_type: Any) -> None:
    assert not planned(event(mediaType=media_type))


@pytest.mark.parametrize("action", ["pull", "delete"])
def test_pulls_and_deletions_are_ignored_silently(action: str) -> None:
    notification = parse_events(envelope(event(action, mediaType=..., size=..., digest=...)))
    assert (notification.events, notification.skipped) == ((), ())


def test_deletions_name_only_what_was_deleted() -> None:
    bare = {"mediaType": ..., "size": ..., "references": ...}
    notification = parse_events(
        envelope(
            event("delete", digest=A, **bare),
            event("delete", digest=..., tag="v1", **bare),
            event("delete", digest="../../etc", **bare),
            {"action": "delete"},
            {"action": "delete", "target": 7},
            event("delete", digest=B, repository="other", **bare),
            event("delete", digest=A, **bare),
        )
    )
    assert (notification.events, notification.skipped, notification.deleted) == (
        (),
        (),
        (Digest.parse(A), Digest.parse(B)),
    )
    # Whatever the role: known layers may be in many repositories.
    wanted = plan(notification, lambda scope: False)
    assert wanted
    assert (wanted.deleted, wanted.layers, wanted.manifests) == ((Digest.parse(A), Digest.parse(B)), (), ())


@pytest.mark.parametrize(
    "odd",
    [
        7,
        None,
        [],
        {},
        {"action": "push"},
        {"action": "push", "target": None},
        {"action": 7, "target": event()["target"]},
        event("rename"),
        event(digest=...),
        event(digest="sha256:abc"),
        event(digest="sha512:" + "a" * 128),
        event(digest="sha256:" + "a" * 63),
        event(digest="sha256:" + "A" * 64),
        event(digest="../../etc", mediaType=DOCKER_LAYER),
        event(digest="sha256:" + "a" * 31, mediaType=DOCKER_LAYER),
        event(digest="sha256:" + "a" * 122, mediaType=DOCKER_LAYER),
        event(digest=7),
        event(digest={"sha256": "a"}),
        event(repository=...),
        event(repository=""),
        event(repository="../../etc"),
        event(repository="Upper/Case"),
        event(repository="a" * 300),
        event(repository="a\x00b"),
        event(repository="\ud800"),
        event(repository=["library/test"]),
    ],
)
def test_a_malformed_event_is_logged_and_does_not_block_a_good_one(odd: Any) -> None:
    notification = parse_events(envelope(odd, event(mediaType=DOCKER_LAYER, digest=B)))
    assert [one.digest for one in notification.events] == [B]
    assert len(notification.skipped) == 1
    assert notification.skipped[0].startswith("event 0: ")
    assert "\x00" not in notification.skipped[0]
    assert len(notification.skipped[0]) < 250
    notification.skipped[0].encode()


@pytest.mark.parametrize(
    "size", ["12", -1, 1.5, True, None, 2**63, 10**400, [], {"a": 1}, ...], ids=lambda size: str(size)[:9]
)
def test_an_invalid_size_leaves_the_size_unknown(size: Any) -> None:
    assert planned(event(mediaType=DOCKER_LAYER, size=size)).layers[0].size is None


def test_events_sent_twice_queue_a_layer_once() -> None:
    wanted = planned(*[event(mediaType=DOCKER_LAYER)] * 3, *[event(digest=B)] * 3)
    assert wanted == Plan(
        (Layer(Digest.parse(A), ("library/test",), 954),), (("library/test", Digest.parse(B)),), ()
    )


def test_a_layer_of_two_repositories_is_reported_for_both() -> None:
    wanted = planned(
        event(mediaType=DOCKER_LAYER),
        event(mediaType=DOCKER_LAYER, repository="b"),
        roles=("library/test", "b"),
    )
    assert wanted.layers == (
        Layer(Digest.parse(A), ("library/test",), 954),
        Layer(Digest.parse(A), ("b",), 954),
    )


def test_roles_are_queried_once_a_scope() -> None:
    asked: list[str] = []
    plan(
        parse_events(envelope(*[event()] * 5, event(repository="b"))), lambda scope: bool(asked.append(scope))
    )
    assert asked == ["library/test", "b"]


@given(st.permutations([event(mediaType=DOCKER_LAYER), event(digest=B), event("pull"), event(digest=B)]))
def test_the_order_of_events_does_not_matter(events: list[Any]) -> None:
    assert planned(*events) == Plan(
        (Layer(Digest.parse(A), ("library/test",), 954),), (("library/test", Digest.parse(B)),), ()
    )
