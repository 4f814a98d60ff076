"""URL and path templates of the configuration: `{name}` fields, and nothing else of str.format."""

from __future__ import annotations

from string import Formatter


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
