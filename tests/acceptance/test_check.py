"""`check` on a whole installation: TLS, S3, trackers with a whitelist, a web seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers.certificate import certificate
from tests.servers.layers import layer_bytes
from tests.servers.moto import Moto
from tests.servers.nginx import start_nginx
from tests.servers.opentracker import start_opentracker
from tests.servers.process import free_port, listening
from tests.servers.push import push_image
from tests.servers.registry import Registry

KEY = "key-of-the-events"


def lines_of(installation: Installation) -> dict[str, list[str]]:
    """Return the line of each probe, by its name."""
    said: dict[str, list[str]] = {}
    for line in installation.run("check", check=False).stdout.splitlines()[:-1]:
        said.setdefault(line[8:18].strip(), []).append(f"{line[:8].strip()}: {line[19:].strip()}")
    return said


def test_check_reports_missing_prerequisites_of_torrents(
    tmp_path: Path, registry: Registry, scope: str, moto: Moto
) -> None:
    pem = certificate(tmp_path)
    port = free_port()

    def tls(listen: int) -> str:
        return (
            f"server {{ listen 127.0.0.1:{listen} ssl; ssl_certificate {pem}; ssl_certificate_key {pem}; "
            f"location / {{ proxy_pass {registry.url}; proxy_set_header Host $http_host; }} }}"
        )

    with (
        start_nginx(tmp_path / "nginx", tls) as nginx,
        start_opentracker(tmp_path / "tracker") as tracker,
    ):
        udp = f"udp://127.0.0.1:{tracker.port}"
        installation = Installation(
            tmp_path / "installation",
            f"127.0.0.1:{nginx.port}",
            docker_registry={"proto": "https"},
            tls={"ca_file": str(pem)},
            application={
                "port": port,
                "public_url": f"http://127.0.0.1:{port}",
                "event_authorization": KEY,
            },
            torrents={"store": "s3", "trackers": [tracker.announce_url, udp]},
            s3={
                "endpoint_url": moto.endpoint,
                "bucket": moto.create_bucket(),
                "access_key": moto.access_key,
                "secret_key": moto.secret_key,
            },
        )

        said = lines_of(installation)
        assert said["tls"] == [
            f"ok: 127.0.0.1:{nginx.port} has a certificate of tests, valid for 0 days: renew it"
        ]
        assert said["metainfo"][0].startswith("ok: bucket s3://")
        assert [line.partition(" answers")[0] for line in said["tracker"]] == [
            f"ok: http://127.0.0.1:{tracker.port}",
            f"ok: {udp}",
        ]
        assert said["web seed"] == ["skipped: no layer is brewed yet"]
        assert said["events"][0].startswith("skipped: no repository has the role")

        image = push_image(registry, scope, "v1", [layer_bytes(100_000, 1)])
        installation.run("backfill", "repository", scope)
        installation.run("run", "brew")
        installation.grant(scope)
        web = installation.process("web", ready=listening(port))
        web.start()
        try:
            digest = image.layers[0].digest
            said = lines_of(installation)
            assert said["web seed"] == [f"ok: http://127.0.0.1:{port} returns ranges of {digest}"]
            assert f"http://127.0.0.1:{port}/v0/event" in said["events"][0]
            for line, why in zip(said["tracker"], ["not authorized", "not for this torrent"], strict=True):
                assert line.startswith("failed: ")
                assert why in line
                assert "set jobs.publish-whitelist.file" in line

            info_hash = installation.json("show", digest)["rbtorrent_id"].partition(":")[2]
            tracker.allow(info_hash)
            said = lines_of(installation)
            assert [line.partition(":")[0] for line in said["tracker"]] == ["ok", "ok"]
            assert tracker.peers(info_hash) == (0, 0)
        finally:
            web.stop()

        ended = installation.run("check", check=False)
        assert ended.returncode == 1
        assert "does application.public_url point to the web app?" in ended.stdout
        assert ended.stdout.splitlines()[-1] == "checked 9, failed 1"
        assert "/v0/layers/" not in ended.stdout + ended.stderr
        assert KEY not in ended.stdout + ended.stderr


@pytest.mark.parametrize("command", ["check", "mirror check"])
def test_a_certificate_of_an_unknown_authority_names_the_key_to_set(
    tmp_path: Path, registry: Registry, command: str
) -> None:
    pem = certificate(tmp_path)

    def tls(listen: int) -> str:
        return (
            f"server {{ listen 127.0.0.1:{listen} ssl; ssl_certificate {pem}; ssl_certificate_key {pem}; "
            f"location / {{ proxy_pass {registry.url}; }} }}"
        )

    with start_nginx(tmp_path / "nginx", tls) as nginx:
        ca: dict[str, str] = {}
        for status in ("failed", "ok"):
            installation = Installation(
                tmp_path / status,
                f"127.0.0.1:{nginx.port}",
                docker_registry={"proto": "https"},
                mirror={"cache_dir": str(tmp_path)},
                tls=ca,
            )
            stdout = installation.run(*command.split(), check=False).stdout
            [line] = [line for line in stdout.splitlines() if line.split()[1] == "tls"]
            [registry_line] = [line for line in stdout.splitlines() if line.split()[1] == "registry"]
            assert (line.split()[0], registry_line.split()[0]) == (status, status)
            assert ("tls.ca_file" in line) == (status == "failed")
            ca = {"ca_file": str(pem)}


def test_what_cannot_be_tried_without_the_database_names_it(tmp_path: Path, registry: Registry) -> None:
    installation = Installation(
        tmp_path,
        registry,
        application={"public_url": "http://127.0.0.1:1", "event_authorization": KEY},
        db={"url": f"postgresql://nobody@127.0.0.1:{free_port()}/none", "connect_timeout": 0.2},
    )

    said = lines_of(installation)

    assert said["database"][0].startswith("failed: the database is down")
    assert said["web seed"] == said["events"] == ["skipped: the database does not answer"]
