"""What a configuration is read with: who judges values that only their users can, and where the file is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, SecretStr, ValidationInfo

Value = TypeVar("Value", str, SecretStr)
Check = Callable[[str], object]
"""Takes a value that can be used; raises ValueError, fit to be shown, for one that cannot."""


@dataclass(frozen=True)
class Checks:
    """Given by who loads the configuration, and knows the parts that read these values."""

    cron: Check
    database_url: Check
    database_host: Check


@dataclass(frozen=True)
class Context:
    """`checks`, if there are any, and the `folder` that relative paths begin at, None for the current one."""

    checks: Checks | None = None
    folder: Path | None = None


def checked(choose: Callable[[Checks], Check]) -> AfterValidator:
    """A validator that asks the chosen check, if there are checks."""

    def ask(value: Value, info: ValidationInfo) -> Value:
        if isinstance(info.context, Context) and info.context.checks:
            choose(info.context.checks)(value if isinstance(value, str) else value.get_secret_value())
        return value

    return AfterValidator(ask)


def _from_folder(value: Path, info: ValidationInfo) -> Path:
    if isinstance(info.context, Context) and info.context.folder:
        return info.context.folder / value
    return value


FilePath = Annotated[Path, AfterValidator(_from_folder)]
"""A path; one that is relative begins at the folder of the configuration file."""
