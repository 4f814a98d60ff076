"""`mirror configure`: point the container engines of this machine at the mirror."""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from core.command_line import DONE, FAILED, USAGE, Commands, add_command
from core.config.config import Config
from core.errors import EngineConfigInvalid
from core.os_errors import os_reason
from core.output import print_error, print_line
from node.engines.engines import Change, Engines, Mirror, Plan

ENGINES = ("containerd", "docker", "podman", "crio", "k3s")


def add_configure(actions: Commands) -> None:
    """Add `mirror configure`."""
    command = add_command(
        actions,
        "configure",
        "Point container engines at the mirror of this machine. Other settings in their files are kept.",
        "mirror configure --engine containerd",
        run_configure,
    )
    command.add_argument(
        "--engine", dest="engines", choices=ENGINES, action="append",
        help="may be repeated (default: those that are installed)",
    )  # fmt: skip
    command.add_argument("--print", action="store_true", help="print the files instead of writing them")
    command.add_argument("--remove", action="store_true", help="take the mirror out of the files again")
    command.add_argument(
        "--root", default="/", metavar="FOLDER",
        help="where the file system of the machine is mounted (default /)",
    )  # fmt: skip


def run_configure(config: Config, arguments: argparse.Namespace) -> int:
    """Run the command."""
    if not os.path.isdir(arguments.root):
        print_error(f"--root: {arguments.root!r} is not a folder")
        return USAGE
    engines, mirror = Engines(Path(arguments.root).absolute()), Mirror.of(config)
    chosen = list(dict.fromkeys(arguments.engines or engines.installed()))
    if not chosen:
        print_error(f"no engine is installed: name one with --engine ({', '.join(ENGINES)})")
        return FAILED
    changed, unchanged, failed = 0, 0, 0
    for engine in chosen:
        try:
            plan = engines.plan(engine, mirror, remove=arguments.remove)
            if arguments.print:
                _print(plan)
                continue
            for change in plan.changes:
                if apply(change):
                    print_line(f"{'removed' if change.after is None else 'wrote'} {change.path}")
                    changed += 1
                else:
                    unchanged += 1
        except (EngineConfigInvalid, OSError) as error:
            why = (
                f"{error.filename}: {os_reason(error)}"
                if isinstance(error, OSError) and error.filename
                else error
            )
            print_error(f"{engine}: {why}")
            failed += 1
            continue
        for note in plan.notes:
            print_line(note)
    if not arguments.print:
        print_line(f"changed {changed}, unchanged {unchanged}, failed {failed}")
    return FAILED if failed else DONE


def apply(change: Change) -> bool:
    """Change a file atomically to its intended content. Return whether it was different."""
    if change.before == change.after:
        return False
    path = change.path.resolve()
    if change.after is None:
        path.unlink()
        if path.name == "hosts.toml":
            # The registry's folder, unless certificates are in it.
            with suppress(OSError):
                path.parent.rmdir()
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(change.after.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def _print(plan: Plan) -> None:
    for change in plan.changes:
        print_line(f"# {change.path}{'' if change.after is not None else ' (removed)'}")
        if change.after is not None:
            print_line(change.after)
    for note in plan.notes:
        print_line(f"# {note}")
