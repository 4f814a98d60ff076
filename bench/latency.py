"""From a push to the ids of its layers: an image of 50 MB, the daemon with its default configuration."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from matplotlib.axes import Axes

from bench.report import Target, report
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerProcess, free_port, listening
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import start_registry

PROGRAM = Path(sys.executable).with_name("docker_torrents")
ROUNDS = 20
LAYER_SIZES = (30_000_000, 15_000_000, 4_500_000, 500_000)
TARGET = 2.0
TIMEOUT = 60.0

CONFIG = """\
application:
    host: 127.0.0.1
    port: {port}
    public_url: http://127.0.0.1:{port}
    event_authorization: bench-events
    state_dir: {folder}/state
docker_registry:
    proto: http
    host: {registry}
"""


def main() -> None:
    port = free_port()
    events = {"url": f"http://127.0.0.1:{port}/v0/event", "headers": {"Authorization": ["bench-events"]}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        with start_registry(folder / "registry", notifications=[events], access_log=False) as registry:
            config = folder / "config.yaml"
            config.write_text(CONFIG.format(port=port, folder=folder, registry=registry.netloc))
            subprocess.run(
                [PROGRAM, "-c", config, "role", "grant", "bench/*"], check=True, capture_output=True
            )
            daemon = ServerProcess([PROGRAM, "-c", config], ready=listening(port), log=folder / "daemon.log")
            daemon.start()
            try:
                seconds = []
                for number in range(ROUNDS):
                    layers = [layer_bytes(size, number * 10 + at) for at, size in enumerate(LAYER_SIZES)]
                    image = push_image(registry, "bench/app", f"v{number}", layers)
                    seconds.append(wait_for_ids(port, image, time.perf_counter()))
            finally:
                daemon.stop()
    show_results(sorted(seconds))


def wait_for_ids(port: int, image: PushedImage, pushed: float) -> float:
    """Return the seconds since `pushed` after which every layer in the manifest has its id."""
    url = f"http://127.0.0.1:{port}/v2/{image.scope}/manifests/{image.tag}"
    with requests.Session() as session:
        session.trust_env = False
        while time.perf_counter() - pushed < TIMEOUT:
            answer = session.get(url, timeout=10)
            answer.raise_for_status()
            if all("rbtorrent_id" in layer for layer in answer.json()["layers"]):
                return time.perf_counter() - pushed
            time.sleep(0.02)
    raise SystemExit(f"{image.scope}:{image.tag} has no ids after {TIMEOUT:g} s")


def show_results(seconds: list[float]) -> None:
    median, p95 = seconds[len(seconds) // 2], seconds[int(0.95 * (len(seconds) - 1))]
    rows = [
        {"figure": what, "seconds": value}
        for what, value in (("p50", median), ("p95", p95), ("slowest", seconds[-1]))
    ]

    def plot(axes: Axes) -> None:
        axes.step(seconds, [(number + 1) / len(seconds) for number in range(len(seconds))], where="post")
        axes.axvline(TARGET, linestyle=":", color="grey")
        axes.set(xlabel="seconds from push to ids", ylabel="share of pushes", xlim=(0, None), ylim=(0, 1))

    report(
        "latency",
        rows,
        ("figure", "seconds"),
        f"{ROUNDS} pushes of an image of {sum(LAYER_SIZES) / 1e6:g} MB in {len(LAYER_SIZES)} layers to a "
        "real registry; the daemon on SQLite, default intervals; until the manifest names every layer's id.",
        plot,
        [Target(f"push to ids under {TARGET:g} s", f"p95 {p95:.2f} s", p95 < TARGET)],
    )


if __name__ == "__main__":
    main()
