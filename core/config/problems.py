"""Pydantic's errors as plain lines for the operator."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "required, but missing",
    "model_type": "expected a section with keys",
    "model_attributes_type": "expected a section with keys",
    "dict_type": "expected a section with keys",
    "list_type": "expected a list: put the value in [ ]",
    "too_short": "expected one item or more",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} or less",
    "string_too_short": "expected {min_length} or more characters",
    "string_too_long": "expected {max_length} or fewer characters",
    "literal_error": "expected {expected}",
    "path_type": "expected a path",
    "byte_size": "expected bytes, or a size such as 20GiB",
    "byte_size_unit": "expected bytes, or a size such as 20GiB",
}
"""A message for each type of pydantic's errors; fields are those of its context."""


def describe(detail: Mapping[str, Any]) -> list[str]:
    """Return lines for one of pydantic's errors: the path of the key, and the expected value."""
    path = ".".join(str(part) for part in detail["loc"])
    lines = _message(detail["type"], detail.get("ctx", {}), detail).split("\n")
    return [f"{path}: {line}" if path else line for line in lines]


def _message(kind: str, context: Mapping[str, Any], detail: Mapping[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind == "model_type" and detail["input"] is None:
        return "the section is empty: indent its keys below it, or remove it"
    if kind == "string_type":
        return _expected_text(detail["input"])
    if kind == "literal_error":
        return f"expected {context['expected'].replace(chr(39), '')}"
    return _WORDS[kind].format_map(context) if kind in _WORDS else "an unusable value"


def _expected_text(value: object) -> str:
    if value is None:
        return "expected text, but the value is empty"
    if isinstance(value, (bool, int, float, date)):
        # A password of digits; `yes`, which is YAML's true; a date.
        return "expected text: put the value in quotes"
    return "expected text"
