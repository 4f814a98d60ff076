"""Notifications for tests, as registries send them, and malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from core.manifests.media_types import DOCKER_MANIFEST, OCI_INDEX

FIXTURES = Path(__file__).parent / "fixtures"
EXAMPLE = FIXTURES / "event.json"
"""The example of the specification."""
EXAMPLE_LAYER = "sha256:c3b3692957d439ac1928219a83fac91e7bf96c153725526874673ae1f2023f8d5"
"""The layer in the example. Its digest has a digit too many; the specification queues it."""

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
A, B, C, D = (f"sha256:{letter * 64}" for letter in "abcd")


def event(action: str = "push", **target: Any) -> dict[str, Any]:
    """Return an event of the image A in `library/test`; fields of its target that are `...` are left out."""
    default = {"mediaType": DOCKER_MANIFEST, "digest": A, "size": 954, "repository": "library/test"}
    kept = {name: value for name, value in (default | target).items() if value is not ...}
    return {"id": "1", "action": action, "target": kept}


def layer_event(action: str = "push", **target: Any) -> dict[str, Any]:
    """Return an event of the layer A in `library/test`."""
    return event(action, **{"mediaType": DOCKER_LAYER, **target})


def reference(digest: str, media_type: str = DOCKER_LAYER, **more: Any) -> dict[str, Any]:
    """One of a manifest's references."""
    return {"mediaType": media_type, "size": 100, "digest": digest, **more}


def envelope(*events: Any) -> bytes:
    """Return the body that carries these events."""
    return json.dumps({"events": events}).encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_VALUES = _JSON | st.sampled_from(
    [A, B, "library/test", DOCKER_LAYER, DOCKER_MANIFEST, OCI_INDEX, "push", "mount"]
)
_FIELDS = st.sampled_from(["mediaType", "digest", "size", "length", "repository", "references", "urls"])
_REFERENCES = st.lists(st.dictionaries(_FIELDS, _VALUES), max_size=3)
_TARGETS = st.dictionaries(_FIELDS, _VALUES | _REFERENCES)

any_events: SearchStrategy[list[Any]] = st.lists(
    st.fixed_dictionaries({"action": _VALUES, "target": _TARGETS | _JSON}) | _JSON, max_size=5
)
"""Lists of malformed events: valid values in the wrong places, and arbitrary JSON."""
