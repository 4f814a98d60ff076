"""The load: images are pushed, manifests requested and compared, layers downloaded as torrents."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import requests

from tests.chaos.cluster import START_SECONDS, Cluster
from tests.chaos.identity import info_of, rbtorrent_id
from tests.servers.aria2 import download
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerFailed
from tests.servers.push import Descriptor, PushedImage, push_image, push_index

PUSHERS = 1
CLIENTS = 2
SMALLEST, LARGEST = 1_000, 1_500_000
FIRST = 3
"""Pushes and requests before the first fault."""
REQUEST_SECONDS = 60
"""Longer than any process is frozen: a slow request is answered eventually."""
DOWNLOAD_SECONDS = 30
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Tagged:
    """A pushed tag, and its image: of an index the child for linux/amd64."""

    scope: str
    tag: str
    digest: str
    image: PushedImage


@dataclass
class Load:
    """The shared state of the threads below. `ids` are the correct ids of all pushed layers, by digest."""

    cluster: Cluster
    seed: int
    report: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    interrupted: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    tags: list[Tagged] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start the threads."""
        works = [push_images] * PUSHERS + [request_manifests] * CLIENTS + [download_layers]
        for number, work in enumerate(works):
            chance = random.Random(f"{self.seed} {work.__name__} {number}")
            name = f"{work.__name__}-{number}"
            self.threads.append(
                threading.Thread(target=self._run, args=(work, chance), name=name, daemon=True)
            )
            self.threads[-1].start()

    def is_under_way(self) -> bool:
        """Return whether faults find something to disturb: images were pushed, and manifests requested."""
        return self.counts["images pushed"] >= FIRST and self.counts["manifest requests"] >= FIRST

    def finish(self) -> None:
        """Let every thread finish its work, and wait for it."""
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def interrupt(self) -> None:
        """Let every thread end without waiting for servers that may never recover."""
        self.interrupted.set()
        self.stop.set()

    def violate(self, what: str) -> None:
        """Record a violation."""
        with self.lock:
            self.violations.append(what)
        self.report(f"VIOLATION {what}")

    def pause(self, chance: random.Random, longest: float) -> bool:
        """Wait up to `longest` seconds; return whether the load continues."""
        return not self.stop.wait(chance.uniform(0, longest))

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def choose(self, chance: random.Random) -> Tagged | None:
        with self.lock:
            return chance.choice(self.tags) if self.tags else None

    def _run(self, work: Callable[[Load, random.Random], None], chance: random.Random) -> None:
        try:
            work(self, chance)
        except Exception as error:
            if self.interrupted.is_set():
                return
            self.violate(f"the load itself failed: {type(error).__name__}: {error}")
            raise


def push_images(load: Load, chance: random.Random) -> None:
    """Push images, and sometimes an index of two; repeat each push until the registry has it."""
    number = 0
    while load.pause(chance, 2.0):
        number += 1
        scope = f"chaos/{chance.choice('abc')}"
        tag = f"{threading.current_thread().name}-{number}"
        media = chance.choice(("docker", "oci"))
        if chance.random() < 0.2:
            images = _layers(load, chance), _layers(load, chance)
            push = partial(_push_index, load, scope, tag, images, media)
        else:
            push = partial(_push_image, load, scope, tag, _layers(load, chance), media)
        pushed = _until_pushed(load, push)
        with load.lock:
            load.tags.append(pushed)
        load.count("images pushed")


def _layers(load: Load, chance: random.Random) -> list[bytes]:
    """Return up to four layers, some of them pushed before."""
    contents = []
    for _ in range(chance.randint(1, 4)):
        with load.lock:
            known = list(load.layers.values())
        if known and chance.random() < 0.25:
            contents.append(layer_bytes(*chance.choice(known)))
            continue
        size = int(SMALLEST * (LARGEST / SMALLEST) ** chance.random())
        content = layer_bytes(size, made := chance.getrandbits(60))
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with load.lock:
            load.layers[digest] = (size, made)
            load.ids[digest] = rbtorrent_id(content)
        contents.append(content)
    return contents


def _push_image(load: Load, scope: str, tag: str, layers: list[bytes], media: Any) -> Tagged:
    image = push_image(load.cluster.registry, scope, tag, layers, media=media)
    return Tagged(scope, tag, image.digest, image)


def _push_index(
    load: Load, scope: str, tag: str, images: tuple[list[bytes], list[bytes]], media: Any
) -> Tagged:
    registry = load.cluster.registry
    here = push_image(registry, scope, None, images[0], media=media)
    other = push_image(registry, scope, None, images[1], media=media, platform="linux/arm64")
    index = push_index(registry, scope, tag, [here.descriptor, other.descriptor], media=media)
    return Tagged(scope, tag, index.digest, here)


def _until_pushed(load: Load, push: Callable[[], Tagged]) -> Tagged:
    while True:
        try:
            return push()
        except requests.RequestException:
            load.count("pushes repeated")
            if load.interrupted.wait(_PAUSE_SECONDS):
                raise


def request_manifests(load: Load, chance: random.Random) -> None:
    """Request manifests of all kinds and compare them with what was pushed."""
    with requests.Session() as session:
        session.trust_env = False
        while load.pause(chance, 0.3):
            tagged = load.choose(chance)
            if tagged is not None:
                how = chance.choice((_ask_with_ids, _ask_with_ids, _ask_by_digest, _ask_head))
                _ask_twice(load, session, tagged, how)


Ask = Callable[["Load", requests.Session, Tagged], str | None]
"""Returns why there was no answer, or None; records a wrong answer as a violation."""


def _ask_twice(load: Load, session: requests.Session, tagged: Tagged, ask: Ask) -> None:
    """Ask, and repeat once after a failure. A second failure counts if the registry itself answers throughout.

    It is excused while the web app or the registry was ended on purpose.
    """
    load.count("manifest requests")
    failure = ask(load, session, tagged)
    if failure is None:
        return
    load.count("manifest requests repeated")
    while True:
        if not load.cluster.serving.wait(START_SECONDS):
            load.violate(f"the web app does not come back within {START_SECONDS:g} s")
            return
        changes = load.cluster.serving.changes
        direct_before = _registry_answers(load, session, tagged)
        failure = ask(load, session, tagged)
        if failure is None:
            return
        direct = direct_before and _registry_answers(load, session, tagged)
        if direct and changes == load.cluster.serving.changes:
            load.violate(f"manifest {tagged.scope}:{tagged.tag} failed twice: {failure}")
            return
        if load.interrupted.wait(_PAUSE_SECONDS):
            return


def _registry_answers(load: Load, session: requests.Session, tagged: Tagged) -> bool:
    url = f"{load.cluster.registry.url}/v2/{tagged.scope}/manifests/{tagged.digest}"
    try:
        return session.head(url, headers=_accept(), timeout=REQUEST_SECONDS).status_code == 200
    except requests.RequestException:
        return False


def _fetch(session: requests.Session, method: str, url: str, **headers: str) -> requests.Response | str:
    """Return the answer, or the reason for its absence."""
    try:
        answer = session.request(method, url, headers=headers, timeout=REQUEST_SECONDS)
    except requests.RequestException as error:
        return f"{type(error).__name__}: {error}"
    return answer if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"


def _ask_with_ids(load: Load, session: requests.Session, tagged: Tagged) -> str | None:
    answer = _fetch(session, "GET", f"{load.cluster.url}/v2/{tagged.scope}/manifests/{tagged.tag}")
    if isinstance(answer, str):
        return answer
    if wrong := wrong_ids(load, tagged, answer):
        load.violate(f"manifest {tagged.scope}:{tagged.tag} {wrong}")
    ids = sum("rbtorrent_id" in layer for layer in answer.json()["layers"])
    load.count("manifests with all ids" if ids == len(tagged.image.layers) else "manifests lacking ids")
    return None


def wrong_ids(load: Load, tagged: Tagged, answer: requests.Response) -> str | None:
    """Return the error in an augmented manifest, or None. Ids may be absent."""
    manifest = answer.json()
    for layer in manifest["layers"]:
        found = layer.pop("rbtorrent_id", None)
        right = load.ids[layer["digest"]]
        if found not in (None, right):
            return f"has id {found} for {layer['digest']}, right is {right}"
    if manifest != json.loads(tagged.image.manifest):
        return "is another one than was pushed"
    digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
    if answer.headers.get("Docker-Content-Digest") != digest:
        return f"has digest {digest}, its header says {answer.headers.get('Docker-Content-Digest')}"
    if answer.headers.get("Rbtorrent-Image-Digest") != tagged.image.digest:
        return f"is of image {answer.headers.get('Rbtorrent-Image-Digest')}, not {tagged.image.digest}"
    return None


def _ask_by_digest(load: Load, session: requests.Session, tagged: Tagged) -> str | None:
    image = tagged.image
    url = f"{load.cluster.url}/v2/{tagged.scope}/manifests/{image.digest}"
    answer = _fetch(session, "GET", url, **_accept())
    if isinstance(answer, str):
        return answer
    if answer.content != image.manifest or answer.headers.get("Docker-Content-Digest") != image.digest:
        load.violate(f"manifest {tagged.scope}@{image.digest} is another one than was pushed")
    return None


def _ask_head(load: Load, session: requests.Session, tagged: Tagged) -> str | None:
    url = f"{load.cluster.url}/v2/{tagged.scope}/manifests/{tagged.tag}"
    answer = _fetch(session, "HEAD", url, **_accept())
    if isinstance(answer, str):
        return answer
    if answer.headers.get("Docker-Content-Digest") != tagged.digest:
        load.violate(f"HEAD of {tagged.scope}:{tagged.tag} has {answer.headers.get('Docker-Content-Digest')}")
    return None


def _accept() -> dict[str, str]:
    kinds = ("vnd.docker.distribution.manifest.v2", "vnd.oci.image.manifest.v1")
    lists = ("vnd.docker.distribution.manifest.list.v2", "vnd.oci.image.index.v1")
    return {"Accept": ", ".join(f"application/{kind}+json" for kind in (*kinds, *lists))}


def download_layers(load: Load, chance: random.Random) -> None:
    """Download layers by their .torrent, from the web seed that it names. A download that fails is repeated."""
    number = 0
    with requests.Session() as session:
        session.trust_env = False
        while load.pause(chance, 3.0):
            tagged = load.choose(chance)
            if tagged is not None:
                number += 1
                _download(load, session, tagged.scope, chance.choice(tagged.image.layers), number)


def fetch_torrent(load: Load, session: requests.Session, scope: str, digest: str) -> bytes | str:
    """Return the .torrent of a layer, or the reason for its absence. Records a wrong one as a violation."""
    answer = _fetch(session, "GET", f"{load.cluster.url}/v0/torrents/{scope}/{digest}")
    if isinstance(answer, str):
        return answer
    found = hashlib.sha1(info_of(answer.content)).hexdigest()
    if f"rbtorrent:{found}" != load.ids[digest]:
        load.violate(f"torrent of {digest} has info-hash {found}, right is {load.ids[digest]}")
    return answer.content


def _download(load: Load, session: requests.Session, scope: str, layer: Descriptor, number: int) -> None:
    torrent = fetch_torrent(load, session, scope, layer.digest)
    if isinstance(torrent, str):
        load.count("torrents not available yet")
        return
    file = load.cluster.folder / f"download-{number}.torrent"
    file.write_bytes(torrent)
    try:
        got = download(file, load.cluster.folder / f"download-{number}", timeout=DOWNLOAD_SECONDS)
    except ServerFailed:
        load.count("downloads broken off")
        return
    if f"sha256:{hashlib.sha256(got.read_bytes()).hexdigest()}" != layer.digest:
        load.violate(f"download of {layer.digest} has other bytes")
    got.unlink()
    load.count("downloads")
