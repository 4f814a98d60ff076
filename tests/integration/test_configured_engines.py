"""The engines accept the files that `mirror configure` writes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from node.engines.engines import config_path
from node.engines.registries_conf import render
from tests.servers.process import require


def test_podman_reads_the_mirror_from_the_drop_in(tmp_path: Path) -> None:
    require("podman", "podman")
    file = tmp_path / "registries.conf"
    file.write_text(render(["registry.example.com"], "127.0.0.1:5050", {}, insecure=False))
    environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(file), "HOME": str(tmp_path)}
    # podman refuses long paths.
    with TemporaryDirectory(prefix="podman-") as short:
        podman = ["podman", "--root", f"{short}/root", "--runroot", f"{short}/run", "--storage-driver", "vfs"]
        podman += ["--cgroup-manager", "cgroupfs", "info", "--format", "json"]
        shown = subprocess.run(
            podman, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    registry = json.loads(shown.stdout)["registries"]["registry.example.com"]

    assert registry["Location"] == "registry.example.com"
    assert [(mirror["Location"], mirror["Insecure"]) for mirror in registry["Mirrors"]] == [
        ("127.0.0.1:5050", True)
    ]


def test_containerd_reports_its_config_path(tmp_path: Path) -> None:
    require("containerd", "containerd")
    file = tmp_path / "config.toml"
    table = '[plugins."io.containerd.grpc.v1.cri".registry]'
    file.write_text(f'version = 2\n{table}\n  config_path = "/etc/containerd/certs.d"\n')
    dump = ["containerd", "-c", str(file), "config", "dump"]
    shown = subprocess.run(dump, capture_output=True, text=True, timeout=60, check=True).stdout

    assert config_path(shown) == "/etc/containerd/certs.d"
