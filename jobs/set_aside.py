"""What was set aside, when somebody has looked: layers and manifests, queued anew or dropped."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from core.digest import Digest
from sql.layers import find_layer
from sql.requeue import find_brewed_layer, requeue_brewed
from sql.set_aside import drop_layers, drop_manifests, retry_failed_layers, retry_failed_manifests
from sql.status import count_manifests_of
from sql.tables import Priority, Tables
from sql.transaction import reading, transaction


@dataclass(frozen=True)
class Requeued:
    """Layers and manifests that are tried again. `kept`: the layer keeps its id from an older service."""

    queued: int
    manifests: int
    kept: bool = False

    def __str__(self) -> str:
        return f"queued anew {self.queued}, manifests {self.manifests}"


@dataclass(frozen=True)
class Dropped:
    """Layers and manifests that were forgotten."""

    dropped: int
    manifests: int

    def __str__(self) -> str:
        return f"dropped {self.dropped}, manifests {self.manifests}"


def requeue(
    engine: Engine, tables: Tables, *, reason: str | None = None, digest: Digest | None = None, now: int
) -> Requeued:
    """Try again what was set aside: all, or what has `reason` in its own, or the layer or manifest `digest`.

    A manifest is tried in each of its repositories, and a layer `digest` that is brewed is brewed again.
    Raises DatabaseDown.
    """
    chosen = {"reason_like": reason, "digest": None if digest is None else str(digest)}
    with transaction(engine) as connection:
        queued = retry_failed_layers(connection, tables, **chosen)
        manifests = retry_failed_manifests(connection, tables, **chosen, now=now)
        brewed = find_brewed_layer(connection, tables, str(digest)) if digest is not None else None
        if brewed is not None:
            queued = requeue_brewed(connection, tables, [brewed], priority=Priority.ASKED, now=now)
    return Requeued(queued, manifests, kept=brewed is not None and not brewed.here)


def drop(
    engine: Engine, tables: Tables, *, reason: str | None = None, digest: Digest | None = None
) -> Dropped:
    """Forget what was set aside, chosen as for `requeue`, or a layer or manifest `digest` that waits.

    Raises DatabaseDown.
    """
    chosen = {"reason_like": reason, "digest": None if digest is None else str(digest)}
    with transaction(engine) as connection:
        return Dropped(
            drop_layers(connection, tables, **chosen), drop_manifests(connection, tables, **chosen)
        )


def explain_nothing(engine: Engine, tables: Tables, digest: Digest, *, now: int) -> str:
    """Why there was nothing to queue anew, or to drop, of the layer or manifest `digest`."""
    with reading(engine) as connection:
        layer = find_layer(connection, tables, str(digest), now=now)
        if layer is None:
            known = count_manifests_of(connection, tables, str(digest))
            return f"the manifest {digest} waits already" if known else f"{digest} is not known here"
    if layer.state == "being brewed":
        return f"{digest} is being brewed by {layer.brewer if layer.claimed else 'nobody known'}"
    if layer.state == "brewed":
        return f"{digest} is brewed: there is nothing to drop"
    return f"{digest} waits already"
