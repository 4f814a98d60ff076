"""WWW-Authenticate: what a server wants to see before it answers (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_COMMAS = re.compile(r"[ \t,]*")
_SCHEME = re.compile(rf"({_WORD})(?: +|(?=,)|\Z)")
# A quoted string holds anything but quotes and backslashes, unless a backslash comes before.
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD})(?=[ \t,]|\Z))')
# A token68 in the place of parameters.
_SINGLE = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_ESCAPED = re.compile(r"\\(.)")
MAX_CHARACTERS = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. `scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in the values of all WWW-Authenticate lines, in order.

    One line may hold several, and commas stand between challenges as well as between the parameters of
    one. A line is left at the first thing that is not in the grammar; what came before counts.
    """
    return tuple(challenge for value in values for challenge in _line(value[:MAX_CHARACTERS]))


def _line(value: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = _COMMAS.match(value).end()  # type: ignore[union-attr] # it matches nothing, too
    while at < len(value):
        scheme = _SCHEME.match(value, at)
        if scheme is None:
            break
        parameters, at = _parameters(value, scheme.end())
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def _parameters(value: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters from `at` on, and where the next challenge, the nonsense, or the end begins."""
    parameters: dict[str, str] = {}
    while True:
        parameter = _PARAMETER.match(value, at)
        if parameter is None:
            single = None if parameters else _SINGLE.match(value, at)
            return parameters, _after_commas(value, single.end() if single else at)
        name, quoted, plain = parameter.groups()
        # The first counts: a name given twice is an error (RFC 9110, 11.2).
        parameters.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if plain is None else plain)
        at = _after_commas(value, parameter.end())


def _after_commas(value: str, at: int) -> int:
    return _COMMAS.match(value, at).end()  # type: ignore[union-attr] # it matches nothing, too
