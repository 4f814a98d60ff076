"""What in the configuration only those can judge who use it: they are asked while the file is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

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


def checked(choose: Callable[[Checks], Check]) -> AfterValidator:
    """A validator that asks the chosen check, if there are checks."""

    def ask(value: Value, info: ValidationInfo) -> Value:
        if isinstance(info.context, Checks):
            choose(info.context)(value if isinstance(value, str) else value.get_secret_value())
        return value

    return AfterValidator(ask)
