"""Read a configuration file: YAML, `${ENV}`, and all its problems reported at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.config.config import Config
from core.config.problems import describe
from core.config.section import Checks, Context
from core.config.yaml_text import parse_yaml
from core.errors import ConfigInvalid
from core.os_errors import os_reason

_HALF_PAIR = re.compile("[\ud800-\udfff]")
"""In Python's texts: half a surrogate pair of YAML, or a byte of the environment that is not UTF-8."""
_VARIABLE = re.compile(r"\$(\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def load_config(path: Path, checks: Checks | None = None) -> Config:
    """Return the configuration in the file at `path`. Raises ConfigInvalid with every problem in it.

    `${NAME}` in a value is replaced from the environment, `$$` stands for one `$`. Relative paths start at
    the file's folder. Without `checks`, the values that they validate are not validated.
    """
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigInvalid(
            where, ["no such file: name one with -c; config.example.yaml shows every key"]
        ) from None
    except OSError as error:
        raise ConfigInvalid(where, [f"cannot be read: {os_reason(error)}"]) from None
    except UnicodeDecodeError:
        raise ConfigInvalid(where, ["cannot be read: not text in UTF-8"]) from None
    return parse_config(text, where, os.environ, checks, path.absolute().parent)


def parse_config(
    text: str,
    where: str,
    environ: Mapping[str, str],
    checks: Checks | None = None,
    folder: Path | None = None,
) -> Config:
    """Return the configuration in the YAML `text`, from a file in `folder`; `where` names it in errors."""
    try:
        raw = parse_yaml(text)
    except ValueError as error:
        raise ConfigInvalid(where, [str(error)]) from None
    if raw is None:
        raise ConfigInvalid(where, ["the file is empty: it needs docker_registry.host at least"])
    if not isinstance(raw, dict):
        raise ConfigInvalid(where, ["expected sections, as in config.example.yaml"])
    problems: list[str] = []
    filled = _substitute(raw, "", environ, problems)
    config = _validate(filled, Context(checks, folder), problems)
    if config is None or problems:
        raise ConfigInvalid(where, problems)
    return config


def _validate(raw: dict[str, Any], context: Context, problems: list[str]) -> Config | None:
    """Return the Config of `raw`, or None, with all errors added to `problems`.

    Pydantic only compares sections when each of them is valid. So invalid keys are removed, and the rest is
    validated again.
    """
    removed: list[str] = []
    while True:
        try:
            return Config.model_validate(raw, context=context)
        except ValidationError as error:
            details = error.errors()
        for detail in details:
            for line in describe(detail):
                if line not in problems and not any(path in line for path in removed):
                    problems.append(line)
        removed_now = [path for detail in details if (path := _remove(raw, detail["loc"]))]
        if not removed_now:
            return None
        removed += removed_now


def _remove(raw: dict[str, Any], location: tuple[int | str, ...]) -> str | None:
    """Delete section.key, or else the section, at `location`. Return its path, None if there was none."""
    path = location[:2]
    holder = raw.get(str(path[0])) if len(path) == 2 else raw
    if not isinstance(holder, dict) or not path:
        return None
    for key in (str(path[-1]), f"{path[-1]}_file"):
        if key in holder:
            del holder[key]
            return ".".join(str(part) for part in path)
    return None


def _substitute(value: Any, path: str, environ: Mapping[str, str], problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _substitute(item, f"{path}.{key}" if path else str(key), environ, problems)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_substitute(item, f"{path}.{number}", environ, problems) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        problems.append(f"{path}: the character NUL cannot be used in a text")
        return value

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name is None:
            return "$"
        if name not in environ:
            problems.append(f"{path}: environment variable {name} is not set")
            return match[0]
        return environ[name]

    filled = _VARIABLE.sub(fill, value)
    if _HALF_PAIR.search(filled):
        problems.append(f"{path}: not text in UTF-8")
    return filled
