"""Every configuration in the documentation loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.config.file import parse_config

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
