"""`role`: choose the repositories whose pushes are brewed."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime

from core.command_line import DONE, FAILED, add_actions, add_command, add_json, named
from core.names import matches, parse_pattern
from core.output import print_error, print_json, print_line
from jobs.service import Service, with_service
from sql.scopes import grant_role, list_roles, revoke_role
from sql.transaction import reading, transaction

PATTERN_HELP = "a repository, or a glob with * (matches slashes too), ? and [a-z]"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the actions of `role`."""
    role = add_actions(command)
    for name, does, func in (
        ("grant", "Brew pushes to these repositories.", _grant),
        ("revoke", "No longer brew pushes to these repositories.", _revoke),
    ):
        action = add_command(role, name, does, f"role {name} 'library/*'", with_service(func))
        action.add_argument(
            "patterns", nargs="+", type=named(parse_pattern), metavar="SCOPE|GLOB", help=PATTERN_HELP
        )
    add_json(
        add_command(
            role, "list", "List the repositories and globs that have the role.", "role list",
            with_service(_list),
        )
    )  # fmt: skip


def _grant(service: Service, arguments: argparse.Namespace) -> int:
    with transaction(service.database) as connection:
        now = service.now(connection)
        new = [
            pattern
            for pattern in arguments.patterns
            if grant_role(connection, service.tables, pattern, now=now)
        ]
    print_line(f"granted {len(new)}, already granted {len(arguments.patterns) - len(new)}")
    return DONE


def _revoke(service: Service, arguments: argparse.Namespace) -> int:
    with transaction(service.database) as connection:
        had = [p for p in arguments.patterns if revoke_role(connection, service.tables, p)]
        left = [role.pattern for role in list_roles(connection, service.tables)]
    missing = [pattern for pattern in arguments.patterns if pattern not in had]
    for pattern in missing:
        print_error(f"{pattern} does not have the role: see `role list`")
    for scope in arguments.patterns:
        if still := [pattern for pattern in left if pattern != scope and matches(scope, pattern)]:
            print_error(f"{scope} still has the role through {', '.join(still)}")
    print_line(f"revoked {len(had)}, did not have it {len(missing)}")
    return FAILED if missing else DONE


def _list(service: Service, arguments: argparse.Namespace) -> int:
    with reading(service.reader) as connection:
        roles = list_roles(connection, service.tables)
    if arguments.json:
        print_json([asdict(role) for role in roles])
        return DONE
    for role in roles:
        print_line(f"{role.pattern}  since {datetime.fromtimestamp(role.granted, UTC):%Y-%m-%d %H:%M} UTC")
    print_line(f"roles {len(roles)}")
    return DONE
