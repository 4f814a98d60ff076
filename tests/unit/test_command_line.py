"""What may be typed, what is refused, and the help."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

import pytest

import docker_torrents
from core.command_line import RUNNABLE, _parser, parse_arguments
from core.digest import Digest
from core.manifests.platform import Platform
from jobs.commands import COMMANDS

DIGEST = "sha256:" + "0123456789abcdef" * 4
SEED_USAGE = "usage: docker_torrents [-h] [-c CONFIG] [-d [DEBUG]]"


def commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that runs something, with the words that lead to it."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield words, parser
    for action in inner:
        for name, command in action.choices.items():
            yield from commands(command, (*words, name))


ALL = dict(commands(_parser()))


def test_the_help_begins_with_the_usage_of_old(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["-h"])

    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert told.startswith(SEED_USAGE)
    assert "Config file (default /etc/docker-registry-\n" in told
    for words in ALL:
        assert f"  {words[0]} " in told or f"  {words[0]}\n" in told


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments([*words, "--help"])

    told = capsys.readouterr().out
    assert ended.value.code == 0
    [example] = [line for line in told.splitlines() if line.startswith("example: ")]
    typed = example.removeprefix("example: docker_torrents ").split(" | ")[0]
    arguments = parse_arguments(shlex.split(typed))
    assert (arguments.command, arguments.action)[: len(words)] == words[:2]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_is_carried_out_by_somebody(words: tuple[str, ...]) -> None:
    command, action = (*words, None)[:2]
    assert command in docker_torrents.STARTS or (command, action) in COMMANDS


def test_every_job_can_be_run() -> None:
    assert set(RUNNABLE) == set(docker_torrents.JOBS)


@pytest.mark.parametrize("words", ["queue status", "run brew", "check"])
def test_config_and_debug_may_stand_before_a_command_or_behind_it(words: str) -> None:
    before = parse_arguments(["-c", "a.yaml", "-d", *words.split()])
    assert (str(before.config), before.debug) == ("a.yaml", True)
    assert parse_arguments([*words.split(), "-c", "a.yaml", "-d"]) == before
    assert parse_arguments([*words.split()]).config == parse_arguments([]).config


@pytest.mark.parametrize("group", sorted({words[0] for words in ALL if len(words) > 1}))
def test_the_help_of_a_group_of_commands_tells_what_each_does(
    group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([group, "-h"])
    told = capsys.readouterr().out
    for first, *rest in ALL:
        if first == group:
            assert f"    {rest[0]} " in told


def test_without_a_command_it_is_the_daemon() -> None:
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
def test_debug_takes_a_word_but_not_the_command(typed: list[str], debug: bool, command: str | None) -> None:
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
def test_nonsense_is_a_usage_error(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
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
def test_what_does_not_go_together_is_answered_with_the_commands_own_usage(
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


def test_a_missing_configuration_ends_with_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert docker_torrents.main(["-c", f"{tmp_path}/nothing.yaml", "run", "brew"]) == 2
    assert "no such file" in capsys.readouterr().err
