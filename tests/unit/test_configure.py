"""`mirror configure` writes and removes the files of the installed engines."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
import yaml

from core.command_line import DONE, FAILED, USAGE
from core.config.config import Config
from docker_torrents import parse_arguments
from node.configure import ENGINES
from node.engines.engines import Engines, Mirror, config_path

REGISTRY = "registry.example.com"
HOSTS = f"etc/containerd/certs.d/{REGISTRY}/hosts.toml"
DROP_IN = "etc/containers/registries.conf.d/zz-docker-torrents.conf"
DUMP_1 = '[plugins]\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/certs:/etc/more"\n'
DUMP_2 = 'version = 3\n[plugins."io.containerd.cri.v1.images".registry]\nconfig_path = "/etc/certs"\n'


def config_of(**mirror: object) -> Config:
    return Config.model_validate({"docker_registry": {"host": REGISTRY}, "mirror": mirror})


def configure(root: Path, *options: str, config: Config | None = None) -> int:
    arguments = parse_arguments(["mirror", "configure", "--root", str(root), *options])
    status: int = arguments.func(config or config_of(), arguments)
    return status


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_each_engine_gets_its_file(tmp_path: Path) -> None:
    assert configure(tmp_path, *(word for engine in ENGINES for word in ("--engine", engine))) == DONE

    assert set(files(tmp_path)) == {
        HOSTS,
        f"etc/docker/certs.d/{REGISTRY}/hosts.toml",
        DROP_IN,
        "etc/rancher/k3s/registries.yaml",
    }
    assert list(tomllib.loads((tmp_path / HOSTS).read_text())["host"]) == ["http://127.0.0.1:5050"]
    assert yaml.safe_load((tmp_path / "etc/rancher/k3s/registries.yaml").read_text())["mirrors"]


def test_every_name_of_the_registry_gets_the_mirror(tmp_path: Path) -> None:
    configure(tmp_path, "--engine", "containerd", config=config_of(registry_names=["docker.io"], port=7000))
    hosts = tomllib.loads((tmp_path / "etc/containerd/certs.d/docker.io/hosts.toml").read_text())

    assert (tmp_path / HOSTS).exists()
    assert hosts["server"] == f"https://{REGISTRY}"
    assert list(hosts["host"]) == ["http://127.0.0.1:7000"]


def test_writing_twice_changes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path, "--engine", "podman")
    assert capsys.readouterr().out.splitlines()[-1] == "changed 1, unchanged 0, failed 0"
    before = (tmp_path / DROP_IN).stat()
    configure(tmp_path, "--engine", "podman", "--engine", "crio")

    assert capsys.readouterr().out.splitlines()[-1] == "changed 0, unchanged 2, failed 0"
    after = (tmp_path / DROP_IN).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_removing_deletes_only_what_was_written(tmp_path: Path) -> None:
    (tmp_path / HOSTS).parent.mkdir(parents=True)
    (tmp_path / HOSTS).write_text('[host."https://cache"]\n')
    chosen = [word for engine in ENGINES for word in ("--engine", engine)]
    configure(tmp_path, *chosen)
    configure(tmp_path, *chosen, "--remove")

    assert files(tmp_path) == {HOSTS: '[host."https://cache"]\n'}
    assert not (tmp_path / f"etc/docker/certs.d/{REGISTRY}").exists()
    assert configure(tmp_path, *chosen, "--remove") == DONE


def test_printing_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert configure(tmp_path, "--engine", "containerd", "--print") == DONE

    assert files(tmp_path) == {}
    assert tomllib.loads(capsys.readouterr().out)["host"] == {
        "http://127.0.0.1:5050": {"capabilities": ["pull", "resolve"]}
    }


def test_a_file_that_cannot_be_extended_is_reported_and_the_others_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / HOSTS).parent.mkdir(parents=True)
    (tmp_path / HOSTS).write_text("not TOML")

    assert configure(tmp_path, "--engine", "containerd", "--engine", "podman") == FAILED
    printed = capsys.readouterr()
    assert HOSTS in printed.err
    assert printed.out.splitlines()[-1] == "changed 1, unchanged 0, failed 1"
    assert (tmp_path / HOSTS).read_text() == "not TOML"


def test_another_invalid_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "etc/containers/registries.conf"
    other.parent.mkdir(parents=True)
    other.write_text('registry = "a"\n')
    assert configure(tmp_path, "--engine", "podman") == FAILED
    assert f"podman: {other}: expected tables" in capsys.readouterr().err
    other.unlink()
    other.mkdir()
    assert configure(tmp_path, "--engine", "podman") == FAILED
    assert f"podman: {other}: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("root", ["", "/missing"])
def test_a_root_that_is_not_a_folder_is_refused(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse_arguments(["mirror", "configure", "--engine", "podman", "--root", root])
    assert arguments.func(config_of(), arguments) == USAGE
    assert f"{root!r} is not a folder" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "etc/rancher/k3s/registries.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("configs: {}\n")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)

    assert configure(tmp_path, "--engine", "k3s") == FAILED
    assert files(tmp_path) == {"etc/rancher/k3s/registries.yaml": "configs: {}\n"}


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    path = tmp_path / "etc/rancher/k3s/registries.yaml"
    path.parent.mkdir(parents=True)
    real = tmp_path / "real.yaml"
    real.write_text("configs: {}\n")
    real.chmod(0o600)
    path.symlink_to(real)
    configure(tmp_path, "--engine", "k3s")

    assert path.is_symlink()
    assert "mirrors" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(path.parent)) == ["registries.yaml"]


def test_without_a_choice_the_installed_engines_are_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure(tmp_path) == FAILED
    assert "--engine" in capsys.readouterr().err
    (tmp_path / "etc/containerd").mkdir(parents=True)
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)

    assert configure(tmp_path) == DONE
    assert set(files(tmp_path)) == {HOSTS, "etc/rancher/k3s/registries.yaml"}


@pytest.mark.parametrize(
    ("host", "netloc"),
    [
        ("127.0.0.1", "127.0.0.1:5050"),
        ("0.0.0.0", "127.0.0.1:5050"),
        ("::", "[::1]:5050"),
        ("::1", "[::1]:5050"),
    ],
)
def test_engines_reach_the_mirror_at_this_machine(host: str, netloc: str) -> None:
    assert Mirror.of(config_of(host=host)).netloc == netloc


@pytest.mark.parametrize(
    ("dump", "path"),
    [
        ("", None),
        ("no TOML", None),
        ("plugins = 5", None),
        (DUMP_1, "/etc/certs:/etc/more"),
        (DUMP_2, "/etc/certs"),
    ],
)
def test_containerds_config_path_is_found(dump: str, path: str | None) -> None:
    assert config_path(dump) == path


def test_files_are_written_to_containerds_config_path() -> None:
    engines = Engines(run=lambda *command: DUMP_1 if command == ("containerd", "config", "dump") else "")
    plan = engines.plan("containerd", Mirror.of(config_of()))

    assert [str(change.path) for change in plan.changes] == [f"/etc/certs/{REGISTRY}/hosts.toml"]
    assert plan.notes == []


def test_the_setting_that_containerd_needs_is_named(tmp_path: Path) -> None:
    plan = Engines(tmp_path).plan("containerd", Mirror.of(config_of()))

    assert ['config_path = "/etc/containerd/certs.d"' in note for note in plan.notes] == [True]


@pytest.mark.parametrize(
    ("engine", "note"),
    [
        ("crio", "pull secrets of Kubernetes never reach a mirror"),
        ("crio", "systemctl reload crio"),
        ("podman", "podman login --tls-verify=false 127.0.0.1:5050"),
        ("k3s", "systemctl restart k3s"),
    ],
)
def test_limits_and_needs_of_an_engine_are_named(tmp_path: Path, engine: str, note: str) -> None:
    assert note in "\n".join(Engines(tmp_path).plan(engine, Mirror.of(config_of())).notes)


def test_an_old_docker_is_not_configured_and_the_user_is_advised_what_to_pull() -> None:
    engines = Engines(run=lambda *command: "Docker version 20.10.24+dfsg1, build 5d6db84")
    plan = engines.plan("docker", Mirror.of(config_of()))

    assert plan.changes == ()
    assert "127.0.0.1:5050/NAME:TAG" in plan.notes[0]
    assert "20.10.24" in plan.notes[0]


def test_a_new_docker_gets_its_file() -> None:
    engines = Engines(run=lambda *command: "Docker version 28.1.0, build 1")
    plan = engines.plan("docker", Mirror.of(config_of()))

    assert len(plan.changes) == 1
    assert "image store" in plan.notes[0]
