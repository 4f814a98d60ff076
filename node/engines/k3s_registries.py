"""k3s' registries.yaml. https://docs.k3s.io/installation/private-registry"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from core.config.yaml_text import parse_yaml
from core.errors import EngineConfigInvalid
from node.engines.block import block, insert, without_block


def add_mirror(text: str, names: Sequence[str], mirror_url: str) -> str:
    """Return registries.yaml with the mirror for registries `names`. Raises EngineConfigInvalid."""
    others = without_block(text)
    before = _parse(others)
    wanted = {name: {"endpoint": [mirror_url]} for name in names}
    taken = {name: value for name, value in before["mirrors"].items() if name in wanted}
    if taken == wanted:
        return others
    if taken:
        raise EngineConfigInvalid(
            f"has mirrors of {', '.join(taken)}: add {json.dumps(mirror_url)} as the first endpoint"
        )
    lines = others.splitlines()
    heads = [number for number, line in enumerate(lines) if line.split("#")[0].rstrip() == "mirrors:"]
    if heads:
        following = (
            line for line in lines[heads[0] + 1 :] if line.strip() and not line.lstrip().startswith("#")
        )
        first = next(following, "")
        indent = first[: len(first) - len(first.lstrip())] or "  "
        after = insert(others, heads[0] + 1, block(_entries(names, mirror_url), indent))
    elif before["mirrors"] or "mirrors:" in others:
        raise EngineConfigInvalid(f"cannot be extended: add {json.dumps(mirror_url)} under mirrors")
    else:
        entries = ["  " + line for line in _entries(names, mirror_url)]
        after = insert(others, len(lines), block(["mirrors:", *entries]))
    if _parse(after) != {**before, "mirrors": {**before["mirrors"], **wanted}}:
        raise EngineConfigInvalid(f"cannot be extended: add {json.dumps(mirror_url)} under mirrors")
    return after


def remove_mirror(text: str) -> str:
    """Return registries.yaml without the additions of `add_mirror`. Raises EngineConfigInvalid."""
    return without_block(text)


def _entries(names: Sequence[str], mirror_url: str) -> list[str]:
    entries = []
    for name in names:
        entries += [f"{json.dumps(name)}:", "  endpoint:", f"    - {json.dumps(mirror_url)}"]
    return entries


def _parse(text: str) -> dict[str, Any]:
    try:
        parsed = parse_yaml(text)
    except ValueError as error:
        raise EngineConfigInvalid(str(error)) from None
    if parsed is None:
        parsed = {}
    if not isinstance(parsed, dict) or not isinstance(parsed.get("mirrors") or {}, dict):
        raise EngineConfigInvalid("not a mapping with mirrors")
    return {**parsed, "mirrors": parsed.get("mirrors") or {}}
