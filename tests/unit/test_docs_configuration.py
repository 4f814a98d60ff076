"""Every configuration in the documentation loads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

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


def test_configurations_are_found() -> None:
    assert len(SHOWN) >= 5


def test_the_policy_for_s3_allows_every_operation_in_use() -> None:
    [text] = re.findall(r"```json\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    actions = [statement["Action"] for statement in json.loads(text)["Statement"]]

    flat = {name for action in actions for name in ([action] if isinstance(action, str) else action)}

    assert flat == set(PERMISSIONS.values())
