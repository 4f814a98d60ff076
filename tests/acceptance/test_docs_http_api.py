"""The examples of docs/http-api.md, run unchanged and in order, against a real registry."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.installation import PROGRAM, Installation
from tests.servers.layers import layer_bytes
from tests.servers.process import child_environment, free_port, listening, require
from tests.servers.push import push_image, push_index
from tests.servers.registry import start_registry
from tests.servers.waiting import comes_true

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "http-api.md"
HOST = "torrents.example.com"
PORT = 10050
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCOPE = "library/ubuntu"


@dataclass(frozen=True)
class Example:
    """A command of the page and its documented output; `…` stands for anything in a line."""

    commands: str
    output: str

    def agrees(self, got: str) -> bool:
        """Return whether this matches the documented output. Headers may have any case, order and number."""
        shown, got = self.output.strip(), got.strip().replace("\r", "")
        if "HTTP/1.1 " not in shown:
            return re.fullmatch(_pattern(shown), got) is not None
        lines = [_lower_name(line) for line in got.split("\n")]
        return all(
            any(re.fullmatch(_pattern(_lower_name(line)), one) for one in lines) for line in shown.split("\n")
        )


def _pattern(shown: str) -> str:
    return re.escape(shown).replace("…", "[^\n]*")


def _lower_name(line: str) -> str:
    """Return a header with its name in lower case."""
    name, colon, value = line.partition(":")
    return f"{name.lower()}{colon}{value}"


def examples(page: str) -> list[Example]:
    """Return all examples of the page, in order."""
    found = []
    for block in _BLOCK.findall(page):
        lines = block.splitlines()
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        shown = [line for line in lines if not line.startswith("$ ")]
        found.append(Example("\n".join(typed), "\n".join(shown)))
    return found


def _event(page: str) -> str:
    """Return the event shown on the page."""
    shown = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [event] = [text for text in shown if '"events"' in text]
    return str(event)


class Shell:
    """A terminal in a folder with config.yaml and event.json, for which the page's host is the app."""

    def __init__(self, folder: Path, app_port: int) -> None:
        self.folder = folder
        curl = f"noproxy = *\nconnect-to = {HOST}:{PORT}:127.0.0.1:{app_port}\n"
        (folder / ".curlrc").write_text(curl)
        self._path = f"{PROGRAM.parent}:{os.environ['PATH']}"

    def run(self, commands: str) -> str:
        """Run commands, and return their output. Raises CalledProcessError if one of them fails."""
        environment = child_environment({"CURL_HOME": str(self.folder), "PATH": self._path})
        bash = ["bash", "-e", "-o", "pipefail", "-c", commands]
        ended = subprocess.run(
            bash, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode in (0, 1), f"{commands}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


@contextmanager
def terminal(folder: Path) -> Iterator[Shell]:
    """Yield a registry with the page's images, the app in front of it, and a terminal."""
    require("curl", "curl")
    (folder / "registry").mkdir()
    port = free_port()
    with start_registry(folder / "registry") as registry:
        push_image(registry, _SCOPE, "22.04", [layer_bytes(300_000, 1), layer_bytes(70_000, 2)])
        arm64 = push_image(registry, _SCOPE, None, [layer_bytes(70_000, 2)], platform="linux/arm64")
        push_index(registry, _SCOPE, "multi", [arm64.descriptor])
        installation = Installation(
            folder,
            registry,
            application={
                "port": port,
                "event_authorization": "secretkey",
                "public_url": f"http://{HOST}:{PORT}",
            },
        )
        (folder / "event.json").write_text(_event(PAGE.read_text(encoding="utf-8")))
        web = installation.process("web", ready=listening(port), name="web")
        web.start()
        try:
            yield Shell(folder, port)
        finally:
            web.stop()


def test_every_example_has_the_documented_output(tmp_path: Path) -> None:
    shown = examples(PAGE.read_text(encoding="utf-8"))
    assert len(shown) > 10
    with terminal(tmp_path) as shell:
        for example in shown:
            got = ""

            def agrees(example: Example = example) -> bool:
                nonlocal got
                got = shell.run(example.commands)
                return example.agrees(got)

            # The app waits only briefly for its database, and probes it again after some seconds.
            assert comes_true(agrees), f"$ {example.commands}\n{got}\nbut the page shows\n{example.output}"


def test_the_page_has_exactly_the_calls_of_the_description() -> None:
    described = yaml.safe_load((REPOSITORY / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    called = {
        (method.upper(), re.sub(r"\{(\w+)\}", r"<\1>", path))
        for path, operations in described["paths"].items()
        for method in operations
        if method in ("get", "post", "put", "delete")
    }
    page = PAGE.read_text(encoding="utf-8").replace("manifests/<tag>", "manifests/<reference>")
    assert set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^`]*)`", page)) == called
