"""A scan of 1,000 repositories with 20 tags each, cold and with nothing changed; memory at 1 M tags."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import requests
from matplotlib.axes import Axes

from bench.report import report
from core.config.config import DockerRegistry
from core.digest import Digest
from core.http.client import HttpClient
from core.manifests.media_types import DOCKER_MANIFEST
from core.registry.client import FetchedManifest, RegistryClient
from jobs.repository_scan import Scan
from jobs.scan_tags import scan_tags
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.scopes import grant_role
from sql.tables import Priority, build_tables
from sql.transaction import transaction
from tests.servers.layers import layer_bytes
from tests.servers.push import CONFIG, image_manifest, mount_blob, push_blob
from tests.servers.registry import Registry, start_registry
from tests.services import service_of

REPOSITORIES, TAGS = 1_000, 20
MANY_REPOSITORIES, MANY_TAGS = 10_000, 100
IMAGES_OF_MANY, VARIANTS = 1_000, 10
COLUMNS = ["what", "tags", "seconds", "tags/s", "requests", "requests/tag", "layers queued", "peak MiB"]


def main() -> None:
    logging.disable(logging.CRITICAL)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        with start_registry(folder / "registry") as registry:
            fill(registry)
            for what in ("cold", "nothing changed"):
                before = len(registry.requests())
                client = RegistryClient(DockerRegistry(host=registry.netloc, proto="http"), HttpClient(2, 30))
                row = scanned(f"{REPOSITORIES} x {TAGS}, {what}", client, folder / "queue.sqlite")
                # The access log is written a moment after the answer.
                time.sleep(0.5)
                row["requests"] = len(registry.requests()) - before
                row["requests/tag"] = row["requests"] / row["tags"]
                rows.append(row)
        rows.append(apart(folder / "many.sqlite"))

    def plot(axes: Axes) -> None:
        shown = rows[:2]
        axes.bar([str(row["what"]) for row in shown], [float(cast(float, row["seconds"])) for row in shown])
        axes.set_ylabel("seconds")

    report(
        "scan",
        rows,
        COLUMNS,
        f"scan-tags over {REPOSITORIES} repositories of a real docker-registry with {TAGS} tags each, layers "
        f"shared, SQLite; then {MANY_REPOSITORIES * MANY_TAGS:,} tags of a simulated one, for the memory",
        plot,
    )


def fill(registry: Registry) -> None:
    """Push the repositories: three layers shared by all, one config for each tag number."""
    layers = [push_blob(registry, "bench/0", layer_bytes(1000, seed)) for seed in range(3)]
    configs = [
        push_blob(registry, "bench/0", json.dumps({"number": number}).encode(), media_type=CONFIG["docker"])
        for number in range(TAGS)
    ]
    manifests = [image_manifest(config, layers) for config in configs]

    def push(number: int) -> None:
        scope = f"bench/{number}"
        if number:
            for blob in (*layers, *configs):
                assert mount_blob(registry, scope, blob.digest, "bench/0")
        with requests.Session() as session:
            session.trust_env = False
            for tag, manifest in enumerate(manifests):
                session.put(
                    f"{registry.url}/v2/{scope}/manifests/v{tag}",
                    data=manifest,
                    headers={"Content-Type": DOCKER_MANIFEST},
                    timeout=30,
                ).raise_for_status()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, range(REPOSITORIES)))


def scanned(what: str, registry: RegistryClient, database: Path) -> dict[str, Any]:
    """Run the job once. Return its figures."""
    engine = create_engine_for(file=database)
    tables = build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
        grant_role(connection, tables, "bench/*", now=1)
    scan = Scan(service_of(engine, tables), registry, Priority.SCANNED)
    begun = time.perf_counter()
    summary = scan_tags(scan)
    seconds = time.perf_counter() - begun
    engine.dispose()
    assert summary.failed == 0, str(summary)
    return {
        "what": what,
        "tags": summary.tags,
        "seconds": seconds,
        "tags/s": summary.tags / seconds,
        "layers queued": summary.queued,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


class SimulatedRegistry:
    """A registry without a network: any number of tags, of a thousand images."""

    def __init__(self) -> None:
        # A thousand different repositories with ten images each: most tags are aliases of an image.
        self._digests: dict[tuple[int, int], Digest] = {}
        self._bodies: dict[Digest, bytes] = {}
        for image in range(IMAGES_OF_MANY):
            for variant in range(VARIANTS):
                layer = f"sha256:{hashlib.sha256(f'{image} {variant}'.encode()).hexdigest()}"
                blob = {"mediaType": "application/octet-stream", "size": 10, "digest": layer}
                document = {
                    "schemaVersion": 2,
                    "mediaType": DOCKER_MANIFEST,
                    "config": blob,
                    "layers": [blob],
                }
                body = json.dumps(document).encode()
                digest = Digest(hashlib.sha256(body).hexdigest())
                self._digests[image, variant] = digest
                self._bodies[digest] = body

    def ping(self) -> str:
        return "it answers"

    def list_repositories(self) -> Iterator[str]:
        return (f"bench/{number}" for number in range(MANY_REPOSITORIES))

    def list_tags(self, scope: str) -> Iterator[str]:
        return (f"v{number}" for number in range(MANY_TAGS))

    def head_manifest(self, scope: str, tag: str) -> Digest:
        return self._digests[int(scope.partition("/")[2]) % IMAGES_OF_MANY, int(tag[1:]) % VARIANTS]

    def fetch_manifest(self, scope: str, reference: Digest) -> FetchedManifest:
        return FetchedManifest(reference, DOCKER_MANIFEST, self._bodies[reference])


def apart(database: Path) -> dict[str, Any]:
    """Scan the simulated registry in a separate process, for its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_scan_many, (database,))


def _scan_many(database: Path) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    what = f"{MANY_REPOSITORIES:,} x {MANY_TAGS}, simulated"
    return scanned(what, cast(RegistryClient, SimulatedRegistry()), database)


if __name__ == "__main__":
    main()
