"""The README's first use, typed as it stands, against a real registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.installation import PROGRAM
from tests.servers.layers import layer_bytes
from tests.servers.process import child_environment
from tests.servers.push import push_image
from tests.servers.registry import start_registry

README = Path(__file__).parents[2] / "README.md"
INSTALLED = "/opt/docker-torrents/.venv/bin"


def blocks(language: str) -> list[str]:
    """What the section on first use shows in this language."""
    section = README.read_text().partition("\n## First use")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_first_use_do_what_they_say(tmp_path: Path) -> None:
    install, look, live = blocks("sh")
    make, pip, path = install.splitlines()
    assert make == f"python3 -m venv {INSTALLED.removesuffix('/bin')}"
    assert pip == f"{INSTALLED}/pip install ."
    *roles, daemon = live.splitlines()
    assert daemon == "docker_torrents -c config.yaml"

    with start_registry(tmp_path / "registry") as registry:
        push_image(registry, "library/ubuntu", "22.04", [layer_bytes(50_000, 1), layer_bytes(3000, 2)])
        config = blocks("yaml")[0].replace("registry.example.com", registry.netloc)
        (tmp_path / "config.yaml").write_text(config.replace("proto: https", "proto: http"))
        typed = "\n".join([path.replace(INSTALLED, str(PROGRAM.parent)), look, *roles])
        ended = subprocess.run(
            ["bash", "-e", "-c", typed],
            cwd=tmp_path,
            env=child_environment({"PATH": "/usr/bin:/bin"}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout
    assert "checked 4, failed 0" in said
    assert "would queue 2 layers" in said
    assert "queued 2 layers" in said
    assert "brewed 2, failed 0, waiting 0" in said
    assert len(re.findall(r"rbtorrent:[0-9a-f]{40}", said)) == 2
    assert said.splitlines()[-1] == "granted 1, had it already 0"
