"""The command line: general options, declaring and adding commands, and types of arguments.

A command is declared as a `Command`. Its module is imported when the command is chosen, and adds its options,
its actions (`mirror status`) and the function that runs it: `func(config, arguments)`, which returns the exit
status.
"""

from __future__ import annotations

import argparse
import pkgutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core.config.config import Config
from core.errors import InvalidName
from core.metrics import version

DEFAULT_CONFIG = Path("/etc/docker-registry-torrents/config.yaml")

DONE, FAILED, USAGE = 0, 1, 2
"""Exit statuses: all done; some of the work failed; wrong usage or configuration."""

Run = Callable[[Config, argparse.Namespace], int]
"""Runs a command and returns the exit status."""

Check = Callable[[argparse.Namespace], str | None]
"""Returns the error in a combination of arguments, or None."""

Commands = Callable[..., argparse.ArgumentParser]
"""Adds a command: argparse's `add_parser`."""

Value = TypeVar("Value")

_WIDTH = 79
_SWITCH = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

_EPILOG = """\
exit status: 0 done, 1 some of the work failed, 2 wrong usage or configuration

example: docker_torrents -c config.yaml backfill repository library/ubuntu
         docker_torrents -c config.yaml run brew
"""


@dataclass(frozen=True)
class Command:
    """A command: its help, an example without `-c config.yaml`, and its options.

    `options` names a function, `module:function`, that is called with the command's parser. Its module is
    imported only if the command is chosen: no command waits for the libraries of another.
    """

    name: str
    does: str
    example: str
    options: str


def parse(commands: Sequence[Command], default: Run, argv: Sequence[str]) -> argparse.Namespace:
    """Parse `argv`, without the program's name. `default` runs when there is no command in it.

    Exits with status 2 on a usage error.
    """
    parser, added = _build_parser(default)
    for command in commands:
        options = add_command(added, command.name, command.does, command.example)
        # A word that is not meant as the command costs an import, no more.
        if command.name in argv:
            pkgutil.resolve_name(command.options)(options)
    arguments = parser.parse_args(_separate_debug(argv))
    check: Check | None = arguments.check
    if check is not None and (problem := check(arguments)) is not None:
        arguments.error(problem)
    for name in ("check", "error"):
        vars(arguments).pop(name, None)
    return arguments


def _build_parser(default: Run) -> tuple[argparse.ArgumentParser, Commands]:
    """Return a parser with the general options, and the commands to add to."""
    parser = argparse.ArgumentParser(
        prog="docker_torrents",
        usage="docker_torrents [-h] [-c CONFIG] [-d [DEBUG]] [COMMAND] ...",
        description='Turns ("brews") the layers of a docker/distribution registry into torrents.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(func=default, check=None)
    _add_general(parser, config=DEFAULT_CONFIG, debug=False)
    parser.add_argument(
        "--version",
        action="version",
        version=f"docker_torrents {version()}",
        help="print the version and exit",
    )
    commands = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        title="commands",
        description="without one: the daemon, which is the web app and the scheduler",
        prog="docker_torrents",
    )
    return parser, commands.add_parser


def add_command(
    commands: Commands,
    name: str,
    does: str,
    example: str,
    func: Run | None = None,
) -> argparse.ArgumentParser:
    """Add a command or an action that is run by `func`. `does` and `example` are as in Command."""
    command = commands(
        name,
        help=does.partition(". ")[0].rstrip("."),
        description=textwrap.fill(does, _WIDTH),
        epilog=f"example: docker_torrents -c config.yaml {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # If they are absent, the values before the command stay.
    _add_general(command, config=argparse.SUPPRESS, debug=argparse.SUPPRESS)
    command.set_defaults(func=func, check=None, error=command.error)
    return command


def add_actions(command: argparse.ArgumentParser, *, required: bool = True) -> Commands:
    """Return the actions of `command` to add to. Unless one is `required`, it also runs without one."""
    actions = command.add_subparsers(
        dest="action",
        required=required,
        metavar="COMMAND" if required else "[COMMAND]",
        title="commands",
    )
    return actions.add_parser


def add_json(command: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    command.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """Parse a number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, got {text!r}")
    return number


def named(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return a type of argument that is parsed by `parse`, which raises InvalidName."""

    def argument(text: str) -> Value:
        try:
            return parse(text)
        except InvalidName as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


def _add_general(parser: argparse.ArgumentParser, *, config: object, debug: object) -> None:
    """Add the options that may precede or follow the command."""
    parser.add_argument(
        "-c", "--config", type=Path, default=config, metavar="CONFIG",
        help=f"Config file (default {DEFAULT_CONFIG})",
    )  # fmt: skip
    parser.add_argument(
        "-d", "--debug", type=_switch, nargs="?", const=True, default=debug, metavar="DEBUG",
        help="Enable debug mode: each HTTP request is logged, without its query",
    )  # fmt: skip


def _separate_debug(argv: Sequence[str]) -> list[str]:
    """Return `argv` changed so that `-d` does not take the following command as its value."""
    separated = []
    for position, word in enumerate(argv):
        follows = argv[position + 1].lower() if position + 1 < len(argv) else ""
        if word in ("-d", "--debug") and follows not in _SWITCH:
            word = "--debug=true"
        separated.append(word)
    return separated


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(_SWITCH)}, got {text!r}")
    return _SWITCH[text.lower()]
