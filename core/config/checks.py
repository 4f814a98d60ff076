"""Validators from the composition root, and the folder at which relative paths start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, SecretStr, ValidationInfo

Value = TypeVar("Value", str, SecretStr)
Check = Callable[[str], object]
"""Raises ValueError, with a message for the operator, for a value that cannot be used."""


@dataclass(frozen=True)
class Checks:
    """Functions that validate values which only other rooms can read."""

    cron: Check
    database_url: Check
    database_host: Check


@dataclass(frozen=True)
class Context:
    """The `checks`, if any, and the `folder` that relative paths start at, None for the current one."""

    checks: Checks | None = None
    folder: Path | None = None


def checked(choose: Callable[[Checks], Check]) -> AfterValidator:
    """Return a validator that calls the chosen check, if there are checks."""

    def validate(value: Value, info: ValidationInfo) -> Value:
        if isinstance(info.context, Context) and info.context.checks:
            choose(info.context.checks)(value if isinstance(value, str) else value.get_secret_value())
        return value

    return AfterValidator(validate)


def _from_folder(value: Path, info: ValidationInfo) -> Path:
    if isinstance(info.context, Context) and info.context.folder:
        return info.context.folder / value
    return value


FilePath = Annotated[Path, AfterValidator(_from_folder)]
"""A path; a relative one starts at the folder of the configuration file."""
