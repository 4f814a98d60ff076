"""YAML for configurations: without repeated keys, and without recursive or multiplying anchors."""

from __future__ import annotations

import yaml

MAX_BYTES = 1_000_000
_MAX_NODES = 10_000
"""Values that a file may have once its anchors are expanded."""


def parse_yaml(text: str) -> object:
    """Return the values of the document `text`.

    Raises ValueError with one line on the error and its position. It quotes only keys and single characters,
    as `text` may contain passwords.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} characters")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _check(root)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{_where(error.problem_mark)}not YAML: {_problem(error)}") from None
    except yaml.YAMLError:
        raise ValueError("not YAML: it has characters that are not allowed") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, _Refused):
            raise
        # From the constructors: a date such as 2026-13-01, an integer such as 0x.
        raise ValueError("a value looks like a date or a number but is not: put it in quotes") from None


class _Refused(ValueError):
    """The document is valid YAML, but not allowed in a configuration."""


def _check(root: yaml.Node) -> None:
    """Visit every value as often as anchors repeat it. Raises ValueError."""
    left = _MAX_NODES
    above: set[int] = set()

    def visit(node: yaml.Node) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Refused(f"more than {_MAX_NODES} values, counting those that anchors repeat")
        if isinstance(node, yaml.ScalarNode):
            return
        if id(node) in above:
            raise _Refused(f"{_where(node.start_mark)}an anchor refers to itself")
        above.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            for _, value in node.value:
                visit(value)
        else:
            for item in node.value:
                visit(item)
        above.remove(id(node))

    visit(root)


def _check_keys(mapping: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(f"{_where(key.start_mark)}expected a name as key")
        if key.value in seen:
            raise _Refused(f"{_where(key.start_mark)}the key {key.value} appears twice")
        seen.add(key.value)


def _where(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f"line {mark.line + 1}: "


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if "alias" in problem or "anchor" in problem:
        return "a value that begins with * or & must be in quotes"
    if "tag" in problem:
        return "a value that begins with ! must be in quotes"
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "cannot start any token" in problem:
        return f"{problem}: put the value in quotes"
    return problem
