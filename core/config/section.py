"""The base of all sections of the configuration, and values that need a context.

The context is the folder of the file, where relative paths start, and the checks of other packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationInfo, field_validator

from core.os_errors import os_reason

Value = TypeVar("Value", str, SecretStr)
Check = Callable[[str], object]
"""Raises ValueError, with a message for the operator, for a value that cannot be used."""


@dataclass(frozen=True)
class Checks:
    """Functions that validate values which only other packages can parse."""

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


class Section(BaseModel):
    """A section: unknown keys are errors, and `x_file` is read into the secret `x`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_secret_file(cls, value: object, info: ValidationInfo) -> object:
        path = info.data.get(f"{info.field_name}_file")
        if path is None or f"{info.field_name}_file" not in cls.model_fields:
            return value
        if value is not None:
            raise ValueError(f"set here and by {info.field_name}_file, expected one of them")
        try:
            # Without the byte order mark that editors of Windows write.
            return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {os_reason(error)}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} cannot be read: not text in UTF-8") from None
