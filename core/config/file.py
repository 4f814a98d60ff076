"""Reads a configuration file: YAML, `${ENV}`, and every problem of it told at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.config.checks import Checks, Context
from core.config.config import Config
from core.errors import ConfigInvalid

_VARIABLE = re.compile(r"\$(\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


def load_config(path: Path, environ: Mapping[str, str] | None = None, checks: Checks | None = None) -> Config:
    """The configuration in the file at `path`. Raises ConfigInvalid with every problem in it.

    `${NAME}` in a value is replaced from the environment, `$$` stands for one `$`; relative paths begin at
    the file's folder. Without `checks`, what they are for is left to who uses it.
    """
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigInvalid(
            where, ["no such file; name one with -c, config.example.yaml shows every key"]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(where, [f"cannot be read: {error}"]) from None
    return parse_config(
        text, where, os.environ if environ is None else environ, checks, path.absolute().parent
    )


def parse_config(
    text: str,
    where: str,
    environ: Mapping[str, str],
    checks: Checks | None = None,
    folder: Path | None = None,
) -> Config:
    """The configuration that the YAML `text` holds, in a file in `folder`; `where` names it in errors."""
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, see above
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ConfigInvalid(where, ["not YAML: " + " ".join(str(error).split())]) from None
    if raw is None:
        raise ConfigInvalid(where, ["the file is empty; docker_registry.host is the least it needs"])
    if not isinstance(raw, dict):
        raise ConfigInvalid(where, [f"expected sections, got {type(raw).__name__}"])
    problems: list[str] = []
    filled = _substitute(raw, "", environ, problems)
    config = _validate(filled, Context(checks, folder), problems)
    if config is None or problems:
        raise ConfigInvalid(where, problems)
    return config


def _validate(raw: dict[str, Any], context: Context, problems: list[str]) -> Config | None:
    """The Config that `raw` makes, or None with all that is wrong added to `problems`.

    How sections agree is only looked at when each is valid; so what is wrong is told, taken out, and
    the rest looked at again.
    """
    removed: list[str] = []
    while True:
        try:
            return Config.model_validate(raw, context=context)
        except ValidationError as error:
            details = error.errors()
        for detail in details:
            for line in _told(detail):
                if line not in problems and not any(path in line for path in removed):
                    problems.append(line)
        taken_out = [path for detail in details if (path := _take_out(raw, detail["loc"]))]
        if not taken_out:
            return None
        removed += taken_out


def _take_out(raw: dict[str, Any], location: tuple[int | str, ...]) -> str | None:
    """Deletes section.key, or else the section, at `location`; its path, or None if there is none."""
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

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name is None:
            return "$"
        if name not in environ:
            problems.append(f"{path}: the environment has no variable {name}")
            return match[0]
        return environ[name]

    return _VARIABLE.sub(fill, value)


def _told(detail: Any) -> list[str]:
    """Lines that say one of pydantic's problems: the key's path, then what was expected."""
    path = ".".join(str(part) for part in detail["loc"])
    kind, message = detail["type"], detail["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = "unknown key"
    elif kind == "missing":
        message = "required, but not given"
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        message = "expected a section with keys"
    else:
        message = message.replace("Input should be", "expected")
    return [f"{path}: {line}" if path else line for line in message.split("\n")]
