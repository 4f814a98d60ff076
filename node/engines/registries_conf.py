"""A drop-in for podman, CRI-O, skopeo and buildah: registries.conf.d/*.conf.

https://github.com/containers/image/blob/main/docs/containers-registries.conf.5.md. A `[[registry]]` table
completely replaces an earlier one with the same prefix, so ours repeats existing settings for that prefix.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import EngineConfigInvalid

Registry = dict[str, Any]


def registries(text: str) -> dict[str, Registry]:
    """Return the settings of each prefix in a file. Raises EngineConfigInvalid."""
    try:
        tables = tomllib.loads(text).get("registry", [])
    except (ValueError, RecursionError) as error:
        raise EngineConfigInvalid(f"invalid TOML: {error}") from None
    if not _are_tables(tables) or not all(_are_tables(table.get("mirror", [])) for table in tables):
        raise EngineConfigInvalid("expected tables [[registry]] and [[registry.mirror]]")
    named = [(table.get("prefix") or table.get("location"), table) for table in tables]
    return {name: table for name, table in named if isinstance(name, str) and name}


def render(names: Sequence[str], mirror_netloc: str, known: Mapping[str, Registry], *, insecure: bool) -> str:
    """Return the drop-in for registries `names`.

    `known` has the settings of each prefix in the other files; `insecure` means that the registry has no TLS.
    """
    lines = ["# Written by `docker_torrents mirror configure`, which `--remove` undoes."]
    for name in names:
        lines += ["", *_table(_with_mirror(name, known.get(name, {}), mirror_netloc, insecure))]
    return "\n".join(lines) + "\n"


def _with_mirror(name: str, known: Registry, mirror_netloc: str, insecure: bool) -> Registry:
    registry = {"prefix": name, "location": name, **known}
    if insecure:
        registry.setdefault("insecure", True)
    others = [mirror for mirror in registry.pop("mirror", []) if mirror.get("location") != mirror_netloc]
    return {**registry, "mirror": [{"location": mirror_netloc, "insecure": True}, *others]}


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _table(registry: Registry) -> list[str]:
    lines = ["[[registry]]", *_pairs(registry)]
    for mirror in registry["mirror"]:
        lines += ["", "[[registry.mirror]]", *_pairs(mirror)]
    return lines


def _pairs(table: Registry) -> list[str]:
    # These tables contain only strings and booleans, and the syntax of JSON is also that of TOML.
    return [f"{key} = {json.dumps(value)}" for key, value in table.items() if isinstance(value, str | bool)]
