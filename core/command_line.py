"""The command line: what may be typed, and the help it gives."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from core.digest import Digest
from core.errors import InvalidName
from core.manifests.platform import Platform
from core.names import parse_pattern, parse_scope, parse_tag

Named = TypeVar("Named")

DEFAULT_CONFIG = Path("/etc/docker-registry-torrents/config.yaml")
RUNNABLE = {
    "brew": "brew what waits",
    "release-locks": "free layers whose brewer has vanished",
    "resolve-manifests": "find the layers of pushed manifests whose events did not name them",
    "scan-tags": "queue what is new under the tags of repositories that have the role",
    "prune": "forget layers that are gone from the registry",
    "publish-whitelist": "write the info-hashes for a tracker's whitelist",
}
_WIDTH = 79
_GLOB = "a name, or a glob of * (slashes too), ? and [a-z]"
_DEBUG_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}

EPILOG = """\
commands:
  (none)                 the daemon: web app and scheduler in one process
  web                    the web app alone
  scheduler              the scheduled jobs alone
  run JOB                one run of one scheduled job, for cron
  backfill ...           queue what the registry holds already
  role ...               which scopes get their pushes brewed
  queue ...              what waits, what is locked, what failed and why
  show WHAT              the state of a layer, or of an image
  init-db                create what the database lacks
  check                  probe the configuration and each dependency

exit status: 0 done, 1 some of the work failed, 2 usage or configuration

example: docker_torrents -c config.yaml backfill repository library/ubuntu
         docker_torrents -c config.yaml run brew
"""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """What `argv` (without the program's name) asks for. Exits with status 2 on a usage error."""
    parser = _parser()
    arguments = parser.parse_args(_debug_apart(argv))
    if arguments.command == "run" and arguments.dry_run and arguments.job != "prune":
        _of(parser, "run").error("--dry-run is for run prune")
    if arguments.command == "show" and arguments.platforms and isinstance(arguments.what, Digest):
        _of(parser, "show").error("--platform is for show SCOPE:TAG")
    if arguments.command == "show" and arguments.timeout and not arguments.wait:
        _of(parser, "show").error("--timeout goes with --wait")
    return arguments


def _of(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    """The parser of a command's own arguments."""
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found: argparse.ArgumentParser = commands.choices[command]
    return found


def _debug_apart(argv: Sequence[str]) -> list[str]:
    """`-d` takes an optional word, which must not swallow the command after it."""
    apart = []
    for place, word in enumerate(argv):
        follows = argv[place + 1].lower() if place + 1 < len(argv) else ""
        if word in ("-d", "--debug") and follows not in _DEBUG_WORDS:
            word = "--debug=true"
        apart.append(word)
    return apart


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="docker_torrents",
        usage="docker_torrents [-h] [-c CONFIG] [-d [DEBUG]] [COMMAND] ...",
        description="Turns the layers of a docker/distribution registry into torrents.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(action=None)
    _add_general(parser, config=DEFAULT_CONFIG, debug=False)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="docker_torrents"
    )

    web = _command(commands, "web", "The web app alone.", "web --workers 2")
    web.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes (default 1)")
    _command(commands, "scheduler", "The scheduled jobs alone, until it is stopped.", "scheduler")

    run = _command(commands, "run", "One run of one scheduled job, then exit; for system cron.", "run brew")
    jobs = "\n".join(f"  {job:<20} {does}" for job, does in RUNNABLE.items())
    run.epilog = f"jobs:\n{jobs}\n\n{run.epilog}"
    run.add_argument("job", choices=RUNNABLE, metavar="JOB", help="one of those below")
    run.add_argument(
        "--dry-run", action="store_true", help="of prune: say what it would forget, and forget nothing"
    )

    _add_backfill(commands)
    _add_role(commands)
    _add_queue(commands)

    show = _command(
        commands, "show", "A layer's state, or an image's coverage layer by layer.",
        "show --wait --platform linux/amd64 library/ubuntu:22.04",
    )  # fmt: skip
    show.add_argument(
        "what", type=_digest_or_image, metavar="DIGEST|SCOPE:TAG",
        help="sha256:... (a layer), scope:tag or scope@sha256:... (an image or an index)",
    )  # fmt: skip
    _json(show)
    show.add_argument(
        "--platform", dest="platforms", type=_named(Platform.parse), action="append", default=[],
        metavar="OS/ARCH[/VARIANT]",
        help="of SCOPE:TAG, look at the images for this one; may be given several times (default: "
        "jobs.scan-tags.platforms, or else all)",
    )  # fmt: skip
    show.add_argument(
        "--wait", action="store_true",
        help="return when all of it is brewed, or fail when what is left was set aside",
    )  # fmt: skip
    show.add_argument(
        "--timeout", type=_rate, metavar="SECONDS", help="of --wait: fail after so long (default 600)"
    )

    init_db = _command(commands, "init-db", "Creates what the database lacks.", "init-db --print | psql")
    init_db.add_argument("--print", action="store_true", help="give the DDL, and touch nothing")
    _command(commands, "check", "Reads the config and probes each dependency.", "check")
    return parser


def _add_general(parser: argparse.ArgumentParser, *, config: object, debug: object) -> None:
    """The options that may stand before the command as well as behind it."""
    parser.add_argument(
        "-c", "--config", type=Path, default=config, metavar="CONFIG",
        help=f"Config file (default {DEFAULT_CONFIG})",
    )  # fmt: skip
    parser.add_argument(
        "-d", "--debug", type=_debug, nargs="?", const=True, default=debug, metavar="DEBUG",
        help="Enable debug mode: each HTTP request is logged, without its query",
    )  # fmt: skip


def _add_backfill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    backfill = _command(
        commands, "backfill", "Queues what is there already.", "backfill repository library/ubuntu"
    )
    what = backfill.add_subparsers(dest="action", required=True, metavar="WHAT")
    repository = _command(
        what, "repository", "Queues all layers of all tags of repositories.",
        "backfill repository --dry-run library/ubuntu library/debian",
    )  # fmt: skip
    repository.add_argument(
        "scopes", nargs="+", type=_named(parse_scope), metavar="SCOPE",
        help="a repository's name, as in library/ubuntu",
    )  # fmt: skip
    _paced(repository)
    catalog = _command(
        what, "catalog", "Queues all layers of all repositories, or of those that match a glob.",
        "backfill catalog --rate 50 'library/*'",
    )  # fmt: skip
    catalog.add_argument(
        "patterns", nargs="*", type=_named(parse_pattern), metavar="SCOPE|GLOB",
        help=f"{_GLOB} (default: all)",
    )  # fmt: skip
    _paced(catalog)
    storage = _command(
        what, "storage",
        "Queues all layers in the registry's storage: blobs that are no JSON, as manifests, configs and "
        "attestations are. What is known is not read again, so that a run goes on where another ended.",
        "backfill storage --from s3 --dry-run",
    )  # fmt: skip
    storage.add_argument(
        "--from", dest="storage", choices=("directory", "s3", "mds"),
        help="by the settings of the section layers, or mds (default: layers.source)",
    )  # fmt: skip
    _paced(storage)
    legacy = _command(
        what, "legacy",
        "Takes over the ids that an older service kept in db.old_table_name by the keys of MDS. Only its own "
        "clients know them: there is no .torrent of a layer whose id was taken over, and none is brewed.",
        "backfill legacy --dry-run --verify 100",
    )  # fmt: skip
    _paced(legacy)
    legacy.add_argument(
        "--verify", type=_positive, default=0, metavar="N",
        help="then read N of the layers at random: are they there and whole, are the ids BitTorrent's?",
    )  # fmt: skip


def _paced(backfill: argparse.ArgumentParser) -> None:
    backfill.add_argument("--dry-run", action="store_true", help="count, and write nothing")
    backfill.add_argument("--limit", type=_positive, metavar="N", help="end after N new layers (or ids)")
    backfill.add_argument(
        "--rate", type=_rate, metavar="R", help="at most R requests, or rows of legacy, a second"
    )


def _add_role(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    role = _command(
        commands, "role", "Which scopes have the rbtorrent role: exact names or globs.",
        "role grant 'library/*'",
    )  # fmt: skip
    what = role.add_subparsers(dest="action", required=True, metavar="WHAT")
    for action, does in (
        ("grant", "Pushes to these scopes are brewed."),
        ("revoke", "Pushes to these scopes are no longer brewed."),
    ):
        command = _command(what, action, does, f"role {action} 'library/*'")
        command.add_argument(
            "patterns", nargs="+", type=_named(parse_pattern), metavar="SCOPE|GLOB",
            help=_GLOB,
        )  # fmt: skip
    _json(_command(what, "list", "The scopes and globs that have the role.", "role list"))


def _add_queue(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    queue = _command(commands, "queue", "The queue, for people.", "queue status")
    what = queue.add_subparsers(dest="action", required=True, metavar="WHAT")
    status = _command(
        what, "status", "What waits, what is locked, what failed and why.", "queue status --json"
    )
    _json(status)
    for action, does in (
        ("retry", "Queues layers and manifests anew that were set aside, or layers whose torrent is lost."),
        (
            "drop",
            "Forgets layers and manifests that were set aside, or one that waits; it may be queued anew.",
        ),
    ):
        command = _command(what, action, does, f"queue {action} --reason 'no blob'")
        _json(command)
        chosen = command.add_mutually_exclusive_group(required=True)
        chosen.add_argument("--all", action="store_true", help="all that were set aside")
        chosen.add_argument("--reason", type=_words, metavar="TEXT", help="those whose reason contains TEXT")
        if action == "retry":
            chosen.add_argument(
                "--lost",
                action="store_true",
                help="all that are brewed and whose metainfo is not in the store",
            )
        this = "this layer or manifest"
        if action == "retry":
            this += "; a layer that is brewed is brewed again"
        chosen.add_argument("--digest", type=_named(Digest.parse), metavar="DIGEST", help=this)


def _command(
    parent: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str, example: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = parent.add_parser(
        name,
        help=does.partition(". ")[0].rstrip("."),
        description=textwrap.fill(does, _WIDTH),
        epilog=f"example: docker_torrents -c config.yaml {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Left out, they are what was said before the command.
    _add_general(command, config=argparse.SUPPRESS, debug=argparse.SUPPRESS)
    return command


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs")


def _debug(text: str) -> bool:
    if text.lower() not in _DEBUG_WORDS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(_DEBUG_WORDS)}, got {text!r}")
    return _DEBUG_WORDS[text.lower()]


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected some of the reason's words; --all is for all of them")
    return text


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, got {text!r}")
    return rate


def _named(parse: Callable[[object], Named]) -> Callable[[str], Named]:
    def argument(text: str) -> Named:
        try:
            return parse(text)
        except InvalidName as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


def _digest_or_image(text: str) -> Digest | tuple[str, str | Digest]:
    try:
        if text.startswith(Digest.PREFIX):
            return Digest.parse(text)
        at = "@" if "@" in text else ":"
        scope, found, reference = text.partition(at)
        if not found:
            raise argparse.ArgumentTypeError(f"expected sha256:... or scope:tag, got {text!r}")
        return parse_scope(scope), Digest.parse(reference) if at == "@" else parse_tag(reference)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None
