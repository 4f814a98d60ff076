"""Every configuration in the documentation loads, and every key named there exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from core.config.config import Config
from core.config.file import parse_config
from core.s3 import PERMISSIONS

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
    if "docker_registry:" in block
]


@pytest.mark.parametrize("text", SHOWN)
def test_a_configuration_shown_in_the_docs_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret of 32 characters, or of more")
    here = re.sub(r"(_file: ).*", rf"\g<1>{tmp_path}/secret", text)

    parse_config(here, "docs", {"S3_ACCESS_KEY": "access", "DB_PASSWORD": "secret"})


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the keys of a section and of those in it, as `jobs.brew.interval`."""
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys_of(kind, f"{key}.")


KEYS = set(keys_of(Config))
_KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(Config.model_fields)})(?:\.[a-z_][a-z_-]*[a-z])+(?![\w(/])")
NAMING = [
    ROOT / "README.md",
    ROOT / "crontab.example",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()),
]


@pytest.mark.parametrize("file", NAMING, ids=lambda file: file.name)
def test_keys_named_in_the_docs_and_in_deploy_exist(file: Path) -> None:
    named = {key for key in _KEY.findall(file.read_text()) if not key.endswith((".yaml", ".sqlite"))}

    assert named <= KEYS


def test_configurations_are_found() -> None:
    assert len(SHOWN) >= 5


def test_the_policy_for_s3_allows_every_operation_in_use() -> None:
    [text] = re.findall(r"```json\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    actions = [statement["Action"] for statement in json.loads(text)["Statement"]]

    flat = {name for action in actions for name in ([action] if isinstance(action, str) else action)}

    assert flat == set(PERMISSIONS.values())
