"""Commands, their arguments and their help."""

from __future__ import annotations

import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import docker_torrents
from core.digest import Digest
from core.manifests.platform import Platform
from docker_torrents import parse_arguments
from jobs.scheduled_jobs import JOBS

DIGEST = "sha256:" + "0123456789abcdef" * 4
ORIGINAL_USAGE = "usage: docker_torrents [-h] [-c CONFIG] [-d [DEBUG]]"


def help_of(*words: str) -> str:
    """Return what `--help` prints after `words`."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        parse_arguments([*words, "--help"])
    assert ended.value.code == 0
    return printed.getvalue()


def commands(*words: str) -> Iterator[tuple[str, ...]]:
    """Yield every command, as the words that select it."""
    inner = re.findall(r"^    ([a-z][a-z-]*)(?= |$)", help_of(*words), re.MULTILINE)
    for name in inner:
        yield from commands(*words, name)
    if words and not inner:
        yield words


ALL = list(commands())


def test_all_commands_are_found_by_their_help() -> None:
    assert {"web", "run", "check", "show"} <= {words[0] for words in ALL}
    assert ("backfill", "legacy") in ALL
    assert ("queue", "retry") in ALL


def test_the_help_begins_with_the_original_usage() -> None:
    shown = help_of()

    assert shown.startswith(ORIGINAL_USAGE)
    assert "Config file (default /etc/docker-registry-\n" in shown


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_a_function_and_help_with_an_example_that_parses(words: tuple[str, ...]) -> None:
    [example] = [line for line in help_of(*words).splitlines() if line.startswith("example: ")]
    typed = example.removeprefix("example: docker_torrents ").split(" | ")[0]
    arguments = parse_arguments(shlex.split(typed))

    assert (arguments.command, getattr(arguments, "action", None))[: len(words)] == words[:2]
    assert callable(arguments.func)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_can_be_run_and_is_in_the_help(job: str) -> None:
    assert parse_arguments(["run", job]).job == job
    assert f"  {job} " in help_of("run")


@pytest.mark.parametrize("words", ["queue status", "run brew", "check"])
def test_config_and_debug_may_precede_or_follow_a_command(words: str) -> None:
    for typed in (["-c", "a.yaml", "-d", *words.split()], [*words.split(), "-c", "a.yaml", "-d"]):
        arguments = parse_arguments(typed)
        assert (str(arguments.config), arguments.debug) == ("a.yaml", True)
    assert parse_arguments([*words.split()]).config == parse_arguments([]).config


def test_the_default_command_is_the_daemon() -> None:
    arguments = parse_arguments([])

    assert arguments.command is None
    assert str(arguments.config) == "/etc/docker-registry-torrents/config.yaml"
    assert arguments.debug is False


@pytest.mark.parametrize(
    ("typed", "debug", "command"),
    [
        (["-d"], True, None),
        (["-d", "true"], True, None),
        (["-d", "0"], False, None),
        (["-d", "run", "brew"], True, "run"),
        (["--debug", "no", "run", "brew"], False, "run"),
    ],
)
def test_debug_accepts_a_word_but_not_the_command(typed: list[str], debug: bool, command: str | None) -> None:
    arguments = parse_arguments(typed)

    assert (arguments.debug, arguments.command) == (debug, command)


@pytest.mark.parametrize(
    "typed",
    [
        ["nonsense"],
        ["run"],
        ["run", "nonsense"],
        ["backfill"],
        ["backfill", "repository"],
        ["backfill", "repository", "Not/A/Scope"],
        ["backfill", "repository", "a", "--limit", "0"],
        ["backfill", "repository", "a", "--rate", "-1"],
        ["backfill", "repository", "a", "--rate", "nan"],
        ["backfill", "storage", "--from", "registry"],
        ["backfill", "legacy", "--verify", "0"],
        ["run", "brew", "--dry-run"],
        ["role", "grant"],
        ["role", "grant", "a b"],
        ["show", "no-tag"],
        ["show", "sha256:short"],
        ["show", "scope:../../etc"],
        ["show", "scope:tag", "--platform", "linux"],
        ["show", DIGEST, "--platform", "linux/amd64"],
        ["queue", "retry"],
        ["queue", "retry", "--all", "--digest", DIGEST],
        ["queue", "retry", "--lost", "--digest", DIGEST],
        ["queue", "drop", "--lost"],
        ["web", "--workers", "0"],
        ["web", "--workers", "100000"],
        ["queue", "retry", "--reason", ""],
        ["queue", "drop", "--reason", " "],
        ["show", "scope:tag", "--timeout", "5"],
        ["--debug=maybe", "check"],
        ["-dmaybe", "check"],
        ["--deb", "check"],
        ["queue", "status", "--js"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(typed)

    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["run", "scan-tags", "--dry-run"], "run"),
        (["show", DIGEST, "--platform", "linux/amd64"], "show"),
        (["show", "a:b", "--timeout", "5"], "show"),
    ],
)
def test_mutually_exclusive_arguments_print_the_usage_of_the_command(
    typed: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(typed)

    assert capsys.readouterr().err.startswith(f"usage: docker_torrents {command} [-h]")


def test_an_image_may_be_named_by_tag_or_digest() -> None:
    assert parse_arguments(["show", "library/ubuntu:22.04"]).what == ("library/ubuntu", "22.04")
    assert parse_arguments(["show", DIGEST]).what == Digest.parse(DIGEST)
    assert parse_arguments(["show", f"library/ubuntu@{DIGEST}"]).what == (
        "library/ubuntu",
        Digest.parse(DIGEST),
    )


def test_several_platforms_may_be_named() -> None:
    typed = ["show", "library/ubuntu:22.04", "--platform", "linux/amd64", "--platform", "linux/arm/v7"]

    assert parse_arguments(typed).platforms == [Platform("linux", "amd64"), Platform("linux", "arm", "v7")]
    assert parse_arguments(typed[:2]).platforms == []


def test_the_version_needs_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((Path(docker_torrents.__file__).parent / "pyproject.toml").read_text())["project"]

    with pytest.raises(SystemExit) as ended:
        docker_torrents.main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"docker_torrents {project['version']}\n"


def test_a_missing_configuration_exits_with_2(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert docker_torrents.main(["-c", f"{tmp_path}/nothing.yaml", "run", "brew"]) == 2
    assert "no such file" in capsys.readouterr().err
