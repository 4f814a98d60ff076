"""The command `mirror` and its subcommands."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import threading
from pathlib import Path

from core.command_line import DONE, FAILED, USAGE, Commands, add_command, add_json, named
from core.config.config import Config
from core.digest import Digest
from core.errors import InvalidName, NotFound
from core.http.client import HttpClient
from core.manifests.platform import Platform
from core.names import parse_scope, parse_tag
from core.output import print_error, print_line, print_result
from core.registry.client import RegistryClient
from core.stopping import stop_on_signals
from node.auth_file import find_login
from node.configure import add_configure
from node.local_mirror import LocalMirror
from node.prefetch import ImageName, prefetch
from node.status import status_lines

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}


def add_commands(commands: Commands) -> None:
    """Add `mirror`."""
    mirror = add_command(
        commands,
        "mirror",
        "Run the mirror of this machine: engines pull through it, layers come from other machines.",
        "mirror",
        _run,
    )
    actions: Commands = mirror.add_subparsers(dest="action", metavar="COMMAND", title="commands")
    add_configure(actions)
    fetch = add_command(
        actions,
        "prefetch",
        "Pull the layers of images through the running mirror, ahead of demand. The login is that of docker "
        "or podman.",
        "mirror prefetch --pin library/ubuntu:22.04",
        _prefetch,
    )
    fetch.add_argument(
        "images", nargs="+", type=named(_image), metavar="SCOPE:TAG", help="scope:tag or scope@sha256:..."
    )
    fetch.add_argument(
        "--platform", dest="platforms", type=named(Platform.parse), action="append",
        metavar="OS/ARCH[/VARIANT]", help="may be repeated (default: this machine's)",
    )  # fmt: skip
    fetch.add_argument("--pin", action="store_true", help="protect these layers from eviction")
    drop = add_command(
        actions, "drop", "Remove a layer from the cache.", f"mirror drop sha256:{'4' * 64}", _drop
    )
    drop.add_argument("digest", type=named(Digest.parse), metavar="DIGEST")
    status = add_command(
        actions,
        "status",
        "Show what is cached and downloading, and the sources of bytes.",
        "mirror status",
        _status,
    )
    add_json(status)
    add_command(
        actions, "check", "Check that engines can pull through a mirror with this configuration.",
        "mirror check", check,
    )  # fmt: skip


def check(config: Config, arguments: argparse.Namespace) -> int:
    """Run `mirror check`, or `check` if the configuration is only that of a node."""
    from node.check import check_node

    return FAILED if check_node(config) else DONE


def is_node(config: Config) -> bool:
    """Return whether the configuration is only that of a node."""
    # A mirror's logging is configured in a section that otherwise belongs to the service.
    only_log = config.application.model_fields_set <= {"log_format"}
    allowed = {"docker_registry", "mirror", "tls", "http", *(["application"] if only_log else [])}
    return "mirror" in config.model_fields_set <= allowed


def _run(config: Config, arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("libtorrent") is None:
        print_error("libtorrent is not installed: pip install '.[node]'")
        return USAGE
    from node.service import run_mirror

    return run_mirror(config, debug=arguments.debug)


def _prefetch(config: Config, arguments: argparse.Namespace) -> int:
    mirror = _local(config)
    login = find_login(config.docker_registry.host, os.environ, Path.home())
    settings = mirror.as_registry(config.docker_registry)
    http = HttpClient(settings.connect_timeout, settings.read_timeout)
    registry = RegistryClient(
        settings, http, login.user if login else None, login.password if login else None
    )
    mirror.status()  # says so if it is not running
    platforms = tuple(arguments.platforms or [_own_platform()])
    stop = threading.Event()
    with stop_on_signals(stop):
        done = prefetch(registry, mirror, arguments.images, platforms, pin=arguments.pin, stop=stop)
    print_line(str(done))
    return FAILED if done.failed else DONE


def _drop(config: Config, arguments: argparse.Namespace) -> int:
    try:
        _local(config).drop(arguments.digest)
    except NotFound as error:
        print_error(str(error))
        print_line("dropped 0")
        return FAILED
    print_line("dropped 1")
    return DONE


def _status(config: Config, arguments: argparse.Namespace) -> int:
    status = _local(config).status()
    print_result(status if arguments.json else status_lines(status))
    return DONE


def _local(config: Config) -> LocalMirror:
    return LocalMirror(config.mirror, HttpClient(config.docker_registry.connect_timeout, 30.0))


def _own_platform() -> Platform:
    return Platform.parse(f"linux/{_MACHINES.get(platform.machine(), platform.machine())}")


def _image(text: str) -> ImageName:
    scope, at, digest = text.partition("@")
    if at:
        return ImageName(parse_scope(scope), Digest.parse(digest))
    scope, colon, tag = text.rpartition(":")
    if not colon:
        raise InvalidName("image", text, "expected scope:tag or scope@sha256:...")
    return ImageName(parse_scope(scope), parse_tag(tag))
