"""The command `mirror` and its actions."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from core.command_line import DONE, FAILED, USAGE, add_actions, add_command, add_json, named
from core.config.config import Config
from core.digest import Digest
from core.manifests.platform import Platform
from core.names import parse_image
from core.output import print_error, print_line, print_result
from core.stopping import stop_on_signals
from node.auth_file import find_login
from node.configure import add_configure
from node.status import status_lines

if TYPE_CHECKING:
    from node.local_mirror import LocalMirror

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}


def add_options(mirror: argparse.ArgumentParser) -> None:
    """Add the function of `mirror`, and its actions."""
    mirror.set_defaults(func=_run)
    actions = add_actions(mirror, required=False)
    add_configure(actions)
    fetch = add_command(
        actions,
        "prefetch",
        "Pull the layers of images through the running mirror, ahead of demand, with the login "
        "that docker or podman has stored.",
        "mirror prefetch --pin library/ubuntu:22.04",
        _prefetch,
    )
    fetch.add_argument(
        "images",
        nargs="+",
        type=named(parse_image),
        metavar="SCOPE:TAG",
        help="scope:tag or scope@sha256:...",
    )
    fetch.add_argument(
        "--platform", dest="platforms", type=named(Platform.parse), action="append",
        metavar="OS/ARCH[/VARIANT]", help="may be repeated (default: this machine's)",
    )  # fmt: skip
    fetch.add_argument("--pin", action="store_true", help="protect these layers from eviction")
    drop = add_command(
        actions, "drop", "Remove a layer from the cache.", f"mirror drop sha256:{'4' * 64}", _drop
    )
    drop.add_argument("digest", type=named(Digest.parse), metavar="DIGEST", help="sha256:... of the layer")
    status = add_command(
        actions,
        "status",
        "Show the cache, downloads, and where bytes came from.",
        "mirror status",
        _status,
    )
    add_json(status)
    add_command(
        actions, "check", "Check that engines can pull through a mirror with this configuration.",
        "mirror check", _check,
    )  # fmt: skip


def _check(config: Config, arguments: argparse.Namespace) -> int:
    from node.check import check_node

    return check_node(config)


def _run(config: Config, arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("libtorrent") is None:
        print_error("libtorrent is not installed: pip install '.[node]'")
        return USAGE
    from node.service import run_mirror

    return run_mirror(config, debug=arguments.debug)


def _prefetch(config: Config, arguments: argparse.Namespace) -> int:
    from core.http.client import HttpClient
    from core.registry.client import RegistryClient
    from node.prefetch import ImageName, prefetch

    mirror = _local(config)
    login = find_login(config.docker_registry.host, os.environ, Path.home())
    settings = mirror.as_registry(config.docker_registry)
    http = HttpClient(settings.connect_timeout, settings.read_timeout)
    registry = RegistryClient(
        settings,
        http,
        login.user if login else None,
        login.password if login else None,
        login_remedy=f"run `docker login {config.docker_registry.host}` or `podman login` as this user",
    )
    mirror.status()  # fails if it is not running
    platforms = tuple(arguments.platforms or [_own_platform()])
    stop = threading.Event()
    with stop_on_signals(stop):
        images = [ImageName(*image) for image in arguments.images]
        done = prefetch(registry, mirror, images, platforms, pin=arguments.pin, stop=stop)
    print_line(str(done))
    return FAILED if done.failed else DONE


def _drop(config: Config, arguments: argparse.Namespace) -> int:
    dropped = _local(config).drop(arguments.digest)
    if not dropped:
        print_error(f"{arguments.digest} is not in the cache, or being read or downloaded: see mirror status")
    print_line(f"dropped {dropped:d}")
    return DONE if dropped else FAILED


def _status(config: Config, arguments: argparse.Namespace) -> int:
    status = _local(config).status()
    print_result(status if arguments.json else status_lines(status))
    return DONE


def _local(config: Config) -> LocalMirror:
    from core.http.client import HttpClient
    from node.local_mirror import LocalMirror

    return LocalMirror(config.mirror, HttpClient(config.docker_registry.connect_timeout, 30.0))


def _own_platform() -> Platform:
    return Platform.parse(f"linux/{_MACHINES.get(platform.machine(), platform.machine())}")
