"""containerd's and dockerd's certs.d/<registry>/hosts.toml.

https://github.com/containerd/containerd/blob/main/docs/hosts.md. Hosts are tried in the file's order.
A mirror by http with `skip_verify` or `ca` would be tried by https first: ours has neither.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

from core.errors import EngineConfigInvalid
from node.engines.block import block, insert, without_block


def add_mirror(text: str, mirror_url: str, registry_url: str) -> str:
    """Return hosts.toml with the mirror as the first host; `registry_url` if it names no server.

    Raises EngineConfigInvalid.
    """
    others = without_block(text)
    before = _parse(others)
    if mirror_url in before.get("host", {}):
        return others
    server = [] if "server" in before else [f"server = {json.dumps(registry_url)}", ""]
    mirror = [f"[host.{json.dumps(mirror_url)}]", '  capabilities = ["pull", "resolve"]']
    first_table = next(
        (number for number, line in enumerate(others.splitlines()) if line.lstrip().startswith("[")),
        len(others.splitlines()),
    )
    after = insert(others, first_table, block(server + mirror))
    _check(before, _parse(after), mirror_url)
    return after


def remove_mirror(text: str) -> str:
    """Return hosts.toml without the additions of `add_mirror`. Raises EngineConfigInvalid."""
    return without_block(text)


def _check(before: dict[str, Any], after: dict[str, Any], mirror_url: str) -> None:
    """Raise EngineConfigInvalid if anything but the mirror has changed, or if it is not the first host."""
    hosts = after.get("host", {})
    rest = {url: host for url, host in hosts.items() if url != mirror_url}
    same = {**after, "host": rest} == {
        "server": after.get("server"),
        **before,
        "host": before.get("host", {}),
    }
    if not same or next(iter(hosts)) != mirror_url:
        raise EngineConfigInvalid(
            f"cannot be extended: add [host.{json.dumps(mirror_url)}] as its first host"
        )


def _parse(text: str) -> dict[str, Any]:
    try:
        parsed = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise EngineConfigInvalid(f"invalid TOML: {error}") from None
    if not isinstance(parsed.get("host", {}), dict):
        raise EngineConfigInvalid("host is not a table")
    return parsed
