"""`python -m demo.screenshots`: make docs/screenshots/*.png of the status page, from a real installation.

A registry with some repositories, their layers brewed by the real jobs. Some fail, as their blobs are removed
from the registry's storage. Only the history of the previous hours is invented.
"""

from __future__ import annotations

import io
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from PIL import Image  # comes with matplotlib, of the extra `dev`
from playwright.sync_api import Browser, sync_playwright

from demo.image import write_layers
from sql.engine import create_engine_for
from sql.tables import build_tables
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerProcess, free_port, listening
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry

PROGRAM = Path(sys.executable).with_name("docker_torrents")
SCREENSHOTS = Path(__file__).parents[1] / "docs" / "screenshots"
REPOSITORIES = {
    "library/ubuntu": 9, "library/postgres": 8, "team/checkout": 7, "team/search": 6, "ml/embeddings": 5,
    "library/nginx": 5, "team/mail": 3, "tools/ci-runner": 3,
}  # fmt: skip
HOURS = 7


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="docker-torrents-screenshots-") as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        with start_registry(folder / "registry") as registry:
            port = free_port()
            config = _config(folder, registry, port)
            _fill(registry, config, folder)
            _invent_history(folder / "state" / "docker_torrents.sqlite")
            web = ServerProcess(
                [PROGRAM, "-c", config, "web"], ready=listening(port), log=folder / "web.log", grace=10.0
            )
            web.start()
            try:
                _take(f"http://127.0.0.1:{port}")
            finally:
                web.stop()
    return 0


def _config(folder: Path, registry: Registry, port: int) -> Path:
    file = folder / "config.yaml"
    file.write_text(
        f"docker_registry: {{host: '{registry.netloc}', proto: http}}\n"
        f"application: {{host: 127.0.0.1, port: {port}, state_dir: ./state}}\n"
        "brewer: {max_attempts: 3}\n"
        "torrents: {trackers: []}\n"
    )
    return file


def _fill(registry: Registry, config: Path, folder: Path) -> None:
    """Push images and brew them. One repository is pushed last and waits; some blobs are lost."""
    chance = random.Random(4)  # noqa: S311 - sizes of layers
    seeds = iter(range(1, 10_000))

    def layers(number: int) -> list[bytes]:
        return [layer_bytes(int(10 ** chance.uniform(4.5, 6.9)), next(seeds)) for _ in range(number)]

    base = layers(2)
    images = {
        scope: push_image(registry, scope, "v1", [*base, *layers(number)])
        for scope, number in REPOSITORIES.items()
    }
    lost = [images[scope].layers[-1].digest for scope in ("team/search", "team/mail", "library/nginx")]
    for digest in lost:
        registry.blob_file(digest).unlink()
    damaged = registry.blob_file(images["ml/embeddings"].layers[-1].digest)
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
    _run(config, "role", "grant", "library/*", "team/*")
    for scope in REPOSITORIES:
        _run(config, "backfill", "repository", scope)
    for job in ("brew", "release-locks", "resolve-manifests", "scan-tags"):
        _run(config, "run", job)
    push_image(registry, "ml/embeddings", "v2", [*base, *layers(5)])
    push_image(registry, "library/postgres", "v2", [*base, *layers(3)])
    push_image(registry, "library/ubuntu", "24.04", write_layers(folder)[:1])
    for scope in ("ml/embeddings", "library/postgres"):
        _run(config, "backfill", "repository", scope)


def _run(config: Path, *arguments: str) -> None:
    # Some commands fail, as intended.
    subprocess.run([PROGRAM, "-c", config, *arguments], check=False, capture_output=True, timeout=300)


def _invent_history(file: Path) -> None:
    """Write samples of the last hours: pushes in waves, a backfill, a source that fails for a while."""
    engine = create_engine_for(file=file)
    history = build_tables().history
    now = int(time.time())
    start = now - now % 60 - HOURS * 3600
    chance = random.Random(11)  # noqa: S311 - an invented history
    waiting, set_aside, rows = 30.0, 1, []
    for number in range(HOURS * 60):
        came = max(0.0, 6 + 5 * math.sin(number / 37) + chance.gauss(0, 2))
        came += 260 if number == 150 else 0
        outage = 290 <= number < 312
        brewed = 0 if outage else min(int(waiting + came), int(13 + chance.gauss(0, 2.5)))
        failed = chance.randint(4, 7) if outage else int(chance.random() < 0.04)
        set_aside += int(number in (296, 300, 340))
        waiting = max(0.0, waiting + came - brewed)
        rows.append(
            {
                "minute": start + number * 60,
                "waiting": int(waiting),
                "locked": min(10, brewed),
                "set_aside": set_aside,
                "brewed": brewed,
                "bytes": int(brewed * chance.uniform(18e6, 42e6)),
                "failed": failed,
            }
        )
    with engine.begin() as connection:
        connection.execute(sa.delete(history))
        connection.execute(sa.insert(history), rows)
    engine.dispose()


def _take(url: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        _shoot(browser, url, "status-light", scheme="light")
        _shoot(browser, url, "status-dark", scheme="dark")
        _shoot(browser, url, "status-narrow", scheme="dark", width=390, height=844)
        _shoot(browser, f"{url}/?q=ml/embeddings:v1", "status-search", scheme="light")
        browser.close()


def _shoot(
    browser: Browser, url: str, name: str, *, scheme: str, width: int = 1160, height: int | None = None
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": height or 600},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=False,
    )
    page = context.new_page()
    page.goto(url)
    image = Image.open(io.BytesIO(page.screenshot(full_page=height is None)))
    # A palette makes the file a third as large.
    image.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(
        SCREENSHOTS / f"{name}.png", optimize=True
    )
    context.close()


if __name__ == "__main__":
    sys.exit(main())
