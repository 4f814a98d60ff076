"""A drop-in for podman, CRI-O, skopeo and buildah: registries.conf.d/*.conf.

https://github.com/containers/image/blob/main/docs/containers-registries.conf.5.md. A `[[registry]]` table
completely replaces an earlier one with the same prefix, so ours repeats existing settings for that prefix.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from core.errors import EngineConfigInvalid

Registry = dict[str, Any]


def render(names: Sequence[str], mirror_netloc: str, others: Iterable[str], *, insecure: bool) -> str:
    """Return the drop-in for registries `names`.

    `others` are the texts of the other files, in the order in which they are read; `insecure` means that the
    registry has no TLS. Raises EngineConfigInvalid.
    """
    known = _registries(others)
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


def _registries(texts: Iterable[str]) -> dict[str, Registry]:
    """Return the settings of each prefix."""
    found: dict[str, Registry] = {}
    for text in texts:
        try:
            parsed = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise EngineConfigInvalid(f"another file is invalid TOML: {error}") from None
        for registry in parsed.get("registry", []):
            name = registry.get("prefix") or registry.get("location")
            if name:
                found[name] = registry
    return found


def _table(registry: Registry) -> list[str]:
    lines = ["[[registry]]", *_pairs(registry)]
    for mirror in registry["mirror"]:
        lines += ["", "[[registry.mirror]]", *_pairs(mirror)]
    return lines


def _pairs(table: Registry) -> list[str]:
    # These tables contain only strings and booleans, and the syntax of JSON is also that of TOML.
    return [f"{key} = {json.dumps(value)}" for key, value in table.items() if isinstance(value, str | bool)]
