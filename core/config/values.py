"""Types of values in the configuration: numbers, patterns, and templates.

Numbers have a maximum that clocks, databases and the system support. Templates have `{name}` fields, but
nothing else of str.format.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator, Field

MOST = 1_000_000_000
"""Seconds (some 30 years) or items: ample, and a time plus this is still a valid date."""

Timeout = Annotated[float, Field(gt=0, le=1_000_000)]
"""How long to wait for a network, in seconds: poll(2) counts milliseconds in 32 bits."""

Seconds = Annotated[float, Field(gt=0, le=MOST)]
WholeSeconds = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Rate = Annotated[float, Field(gt=0, le=MOST)]


def check_template(template: str, *, required: set[str], optional: frozenset[str] = frozenset()) -> str:
    """Return `template` if it has every `required` field, and no others but `optional` ones.

    Raises ValueError that names the field. Attributes, indexes, conversions and format specifications are
    refused: they are not needed, and give access to objects.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from None
    found = set()
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if spec or conversion or name not in required | optional:
            allowed = ", ".join(f"{{{field}}}" for field in sorted(required | optional))
            raise ValueError(f"unknown field {{{name}}}, expected {allowed}")
        found.add(name)
    missing = required - found
    if missing:
        raise ValueError("lacks " + ", ".join(f"{{{field}}}" for field in sorted(missing)))
    return template


def template(*required: str) -> AfterValidator:
    """Return a validator for templates with these fields."""
    return AfterValidator(lambda value: check_template(value, required=set(required)))


def matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator for texts of this pattern; `expected` describes it in words."""
    compiled = re.compile(pattern)

    def validate(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(validate)
