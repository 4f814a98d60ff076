"""config.example.yaml has every key, with its default or a note that the value is not the default."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import yaml
from pydantic import BaseModel

from core.config.config import Config
from jobs.scheduled_jobs import JOBS

SECTIONS = {f"{name}:" for name in (*Config.model_fields, *JOBS)}
EXAMPLE = (Path(__file__).resolve().parents[2] / "config.example.yaml").read_text()


def every_key(model: type[BaseModel], path: str = "") -> set[str]:
    keys = set()
    for name, field in model.model_fields.items():
        place = f"{path}.{field.alias or name}" if path else (field.alias or name)
        inner = [
            part
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        keys |= every_key(inner[0], place) if inner else {place}
    return keys


def keys_of(value: object, path: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {path}
    return {key for name, item in value.items() for key in keys_of(item, f"{path}.{name}" if path else name)}


def test_every_key_is_in_the_example_and_nothing_else() -> None:
    # Mutually exclusive keys are comments there.
    shown = yaml.safe_load(re.sub(r"^(\s+)# ([a-z_]+_file|url): ", r"\1\2: ", EXAMPLE, flags=re.MULTILINE))

    in_example = {re.sub(r"^(jobs\.[^.]+)\.(interval|cron)$", r"\1", key) for key in keys_of(shown)}
    known = {re.sub(r"^(jobs\.[^.]+)\.(interval|cron)$", r"\1", key) for key in every_key(Config)}
    assert in_example == known


def test_every_key_has_a_comment_above_or_beside_it() -> None:
    lines = EXAMPLE.splitlines()
    bare = [
        line
        for above, line in pairwise(lines)
        if re.match(r"\s*[a-z_-]+:", line) and "#" not in line and not above.strip().startswith("#")
    ]
    # The jobs' interval and cron are explained above the section.
    assert [line for line in bare if line.strip() not in SECTIONS and "interval:" not in line] == []
