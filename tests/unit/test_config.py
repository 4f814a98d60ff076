"""The configuration: the original example loads, and all errors are reported at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config.config import Config
from core.config.file import load_config, parse_config
from core.config.section import Section
from core.errors import ConfigInvalid

ROOT = Path(__file__).resolve().parents[2]

SEED = """
application:
    port: 10050
    host: '::'
    event_authorization: 'secretkey'
docker_registry:
    host: 'registry-int.yandex.net'
    proto: 'https'
    image_resolve_template: '{proto}://{host}/v2/{scope}/manifests/{tag}'
    hash_resolve_template: '{proto}://{host}/v2/{scope}/blobs/{blob_sum}'
    tags_resolve_template: '{proto}://{host}/v2/{scope}/tags/list'
    blob_sum_prefix: 'sha256:'
    compatibility_header: 'application/vnd.docker.distribution.manifest.v2+json'
    connect_timeout: 0.2
    read_timeout: 2
blackbox:
    url_template: 'https://blackbox.yandex-team.ru/blackbox?{payload}'
    scopes: 'registry:use'
    connect_timeout: 0.2
    read_timeout: 0.5
mds:
    url_template: 'http://storage-int.mds.yandex.net:80/{payload}/'
    namespace: 'docker-registry'
    torrent_url: 'http://rbtorrent.front.intape.yandex.net/announce'
    connect_timeout: 0.5
    read_timeout: 600
brewer:
    brew_discard_timeout: 300
    sleep_time: 10
    layers_per_chunk: 10
    brew_user: 'robot-qloud-client'
db:
    database: 'database_name'
    username: 'database_login'
    password: 'P@ssw0rd'
    host: 'host1,host2,host3'
    port: 6432
    table_name: 'rbtorrent_mapping'
    old_table_name: 'mds_keys_to_rbtorrents_mapping'
    blob_path_template: '/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data'
    blob_path_digest_index: 7
    mfs_table: 'mfs'
    mds_table: 'mds'
    max_pool_size: 100
    connect_timeout: 0.1
"""


def problems_of(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(text, "config.yaml", environ or {})
    return caught.value.problems


def test_the_original_example_loads() -> None:
    config = parse_config(SEED, "seed", {})

    assert config.authorization == "blackbox"
    assert config.layers.source == "registry"
    assert config.torrents.store == "directory"
    assert config.metainfo_dir == config.application.state_dir / "metainfo"
    assert config.trackers == ["http://rbtorrent.front.intape.yandex.net/announce"]
    assert config.web_seeds == []
    assert config.db.host == ["host1", "host2", "host3"]
    assert config.db.password is not None
    assert config.db.password.get_secret_value() == "P@ssw0rd"
    assert config.db.connect_timeout == 0.1
    assert config.brewer.brew_user == "robot-qloud-client"


def test_the_minimal_configuration_is_a_host() -> None:
    config = parse_config("docker_registry: {host: 'localhost:5000', proto: http}", "minimal", {})

    assert config.authorization == "registry"
    assert config.db.host is None
    assert config.trackers == []
    # Large registries take 45 s for the first page of their catalog.
    assert config.docker_registry.catalog_timeout > 45 + config.docker_registry.read_timeout


def test_the_example_file_loads() -> None:
    assert load_config(ROOT / "config.example.yaml").application.port == 10050


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("a: [", "not YAML"),
        ("a: \x00", "not YAML"),
        ("- a\n- b\n", "expected sections"),
        ("just text", "expected sections"),
        ("docker_registry: {host: a}\ndocker_registry: {host: b}\n", "line 2: the key docker_registry appears twice"),
        ("? [a, b]\n: c\n", "line 1: expected a name as key"),
        ("docker_registry: {host: a}\ndb: {password: 12345}", "db.password: expected text: put the value in quotes"),
        ("docker_registry: {host: a}\ndb: {password: yes}", "db.password: expected text: put the value in quotes"),
        ("docker_registry: {host: a}\ndb: {password: *hush-hush}", "line 2: not YAML: a value that begins with *"),
        ("docker_registry: {host: a}\ndb: {password: @hush-hush}", "put the value in quotes"),
        ("docker_registry: {host: a}\ndb: {password: !hush-hush x}", "line 2: not YAML: a value that begins with !"),
        ("docker_registry: {host: 2026-13-41}", "put it in quotes"),
        ("docker_registry: {host: a}\ndb: {table_name: 'Mapping'}", "db.table_name: expected a table name"),
        ("docker_registry: {host: a}\ns3: {endpoint_url: 'https://u:hush-hush@host'}", "s3.endpoint_url: a user name"),
        ("docker_registry: {host: a}\ns3: {endpoint_url: 'https://u:hush/hush@host'}", "s3.endpoint_url: a user name"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("application: {port: 1}", "docker_registry: required, but missing"),
        ("docker_registry:\n", "docker_registry: the section is empty: indent its keys below it, or remove it"),
        ("docker_registry:\n\thost: a", "line 2: not YAML: indent with spaces"),
        ("docker_registry: {host: a, hots: b}", "docker_registry.hots: unknown key"),
        ("docker_registry: {host: a}\nbrewers: {}", "brewers: unknown key"),
        ("docker_registry: {host: a, read_timeout: -1}", "docker_registry.read_timeout: expected more than 0"),
        ("docker_registry: {host: a, read_timeout: .nan}", "docker_registry.read_timeout: expected"),
        ("docker_registry: {host: a, read_timeout: soon}", "docker_registry.read_timeout: expected a number"),
        ("docker_registry: {host: a}\napplication: {port: 70000}", "application.port: expected 65535 or less"),
        ("docker_registry: {host: a, proto: ftp}", "docker_registry.proto: expected http or https"),
        (
            "docker_registry: {host: a, tags_resolve_template: 'http://x/tags'}",
            "docker_registry.tags_resolve_template: lacks {scope}",
        ),
        (
            "docker_registry: {host: a, tags_resolve_template: 'http://{scope.__class__}'}",
            "docker_registry.tags_resolve_template: unknown field {scope.__class__}",
        ),
        ("docker_registry: {host: a, default_platform: linux}", "docker_registry.default_platform: "),
        ("docker_registry: {host: a}\nlayers: {source: mds}", "layers.source is mds, but the section mds is missing"),
        ("docker_registry: {host: a}\nlayers: {source: directory}", "layers.directory is missing"),
        ("docker_registry: {host: a}\nlayers: {source: s3}", "layers.bucket is missing"),
        ("docker_registry: {host: a}\ntorrents: {store: s3}", "s3.bucket is missing"),
        ("docker_registry: {host: a}\ns3: {access_key: a}", "s3.access_key and s3.secret_key are needed together"),
        ("docker_registry: {host: a}\napplication: {authorization: blackbox}", "the section blackbox is missing"),
        (
            "docker_registry: {host: a}\ntorrents: {web_seeds: ['{public_url}/v0/layers/{capability}/{hex}']}",
            "application.public_url is missing",
        ),
        ("docker_registry: {host: a}\ndb: {blob_path_digest_index: 6}", "db.blob_path_digest_index is 6"),
        ("docker_registry: {host: a}\ndb: {host: 'a,,b', database: x}", "db.host: expected a host"),
        ("docker_registry: {host: a}\ndb: {host: a}", "db.host is set, but db.database is missing"),
        ("docker_registry: {host: a}\ndb: {host: [], database: x}", "db.host: expected a host"),
        ("docker_registry: {host: a}\ndb: {database: x}", "db.database is set, but db.host is missing"),
        ("docker_registry: {host: a}\ndb: {username: x}", "db.username is set, but db.host is missing"),
        ("docker_registry: {host: a}\ndb: {password: x}", "db.password is set, but db.host is missing"),
        ("docker_registry: {host: a}\nbrewer: {brew_password: x}", "brewer.brew_user is missing"),
        ("docker_registry: {host: 'http://a'}", "docker_registry.host: expected host or host:port"),
        ("docker_registry: {host: 'a:70000'}", "docker_registry.host: expected host or host:port"),
        ("docker_registry: {host: 'a:0'}", "docker_registry.host: expected host or host:port"),
        ("docker_registry: {host: 'a b'}", "docker_registry.host: expected host or host:port"),
        ("docker_registry: {host: a/b}", "docker_registry.host: expected host or host:port"),
        ("docker_registry: {host: ''}", "docker_registry.host: expected host or host:port"),
        ("docker_registry: {host: a}\ns3: {endpoint_url: 'http://a b'}", "s3.endpoint_url: "),
        ("docker_registry: {host: a}\ns3: {endpoint_url: 'http://'}", "s3.endpoint_url: it has no usable host"),
        ("docker_registry: {host: a}\ns3: {region: 'eu west'}", "s3.region: "),
        ("docker_registry: {host: a}\ns3: {bucket: 'a/b'}", "s3.bucket: "),
        ("docker_registry: {host: a}\nlayers: {bucket: 'a/b'}", "layers.bucket: "),
        (
            "docker_registry: {host: a}\ntorrents: {web_seed_secret: short}",
            "torrents.web_seed_secret: expected 32 characters or more",
        ),
        ("docker_registry: {host: a}\ntorrents: {web_seed_secret: ''}", "torrents.web_seed_secret: expected 32"),
        ("docker_registry: {host: a}\njobs: {brew: {interval: .inf}}", "jobs.brew.interval: expected a finite"),
        ("docker_registry: {host: a}\njobs: {release_locks: {interval: 1}}", "jobs.release_locks: unknown key"),
        ("docker_registry: {host: a}\ndb: {table_name: 'x; drop'}", "db.table_name: "),
        (
            "docker_registry: {host: a}\njobs: {brew: {interval: 1, cron: '* * * * *'}}",
            "jobs.brew: interval and cron are both set",
        ),
        ("docker_registry: {host: a}\njobs: {brwe: {interval: 1}}", "jobs.brwe: unknown key"),
        ("docker_registry: {host: a, read_timeout: 1.0e+300}", "docker_registry.read_timeout: expected 1000000"),
        ("docker_registry: {host: a}\nbrewer: {max_attempts: 9999999999}", "brewer.max_attempts: expected 1000000000"),
        ("docker_registry: {host: a}\njobs: {brew: {interval: 1.0e+300}}", "jobs.brew.interval: expected 1000000000"),
        ("docker_registry: {host: a}\njobs: {prune: {grace: 9999999999}}", "jobs.prune.grace: expected 1000000000"),
        ("docker_registry: {host: a}\nmirror: {cache_size: 9999999999TB}", "mirror.cache_size: expected 1152921504606"),
        ("docker_registry: {host: a}\nmirror: {port: 7, peer_port: 7}", "mirror.port and mirror.peer_port are both 7"),
        (
            'docker_registry: {host: a}\napplication: {state_dir: "a\\0b"}',
            "application.state_dir: the character NUL cannot be used",
        ),
        (
            'docker_registry: {host: a}\napplication: {state_dir: "\\ud800"}',
            "application.state_dir: not text in UTF-8",
        ),
        ("docker_registry: {host: '${NOT_SET}'}", "docker_registry.host: environment variable NOT_SET is not set"),
    ],
)  # fmt: skip
def test_problems_are_reported_with_the_path_of_the_key(text: str, message: str) -> None:
    problems = problems_of(text)

    assert any(message in problem for problem in problems), problems
    assert "hush" not in " ".join(problems)


def test_all_problems_are_reported_at_once_including_those_between_sections() -> None:
    problems = problems_of(
        "docker_registry: {host: a, read_timeout: -1, port: 3}\n"
        "brewer: {workers: many}\n"
        "layers: {source: mds}\n"
        "db: {password_file: /does/not/exist}\n"
    )

    assert [problem.split(":")[0] for problem in problems] == [
        "docker_registry.read_timeout",
        "docker_registry.port",
        "brewer.workers",
        "db.password",
        "layers.source is mds, but the section mds is missing",
    ]


def test_a_problem_does_not_hide_others_of_its_section() -> None:
    assert problems_of("docker_registry: {host: a}\ndb: {host: h, blob_path_digest_index: 3}") == [
        "db.blob_path_digest_index is 3, but element 3 of db.blob_path_template (split at /) is not {full_digest}",
        "db.host is set, but db.database is missing",
    ]
    assert problems_of("docker_registry: {host: a}\ndb: {host: 'a,,b', username: u}") == [
        "db.host: expected a host, or several separated by commas"
    ]


def test_valid_hosts_are_accepted() -> None:
    for host in ("registry", "registry.example.com:5000", "127.0.0.1:1", "[::1]:5000", "[fe80::1]", "a_b"):
        assert parse_config(f"docker_registry: {{host: '{host}'}}", "c", {}).docker_registry.host == host


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    (tmp_path / "config.yaml").write_text(
        "docker_registry: {host: a}\napplication: {state_dir: ./state}\ntorrents: {directory: /metainfo}\n"
        "db: {url: 'sqlite:////a', password_file: password}\njobs: {publish-whitelist: {file: list}}\n"
    )

    config = load_config(tmp_path / "config.yaml")

    assert config.application.state_dir == tmp_path / "state"
    assert config.metainfo_dir == Path("/metainfo")
    assert config.jobs.publish_whitelist.file == tmp_path / "list"
    assert config.db.password is not None
    assert config.db.password.get_secret_value() == "secret"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///queue.sqlite", "sqlite:///{}/queue.sqlite"),
        ("sqlite:///./data/queue.sqlite?timeout=5", "sqlite:///{}/data/queue.sqlite?timeout=5"),
        ("sqlite+pysqlite:///queue.sqlite", "sqlite+pysqlite:///{}/queue.sqlite"),
        ("sqlite:////srv/queue.sqlite", "sqlite:////srv/queue.sqlite"),
        ("postgresql:///queue", "postgresql:///queue"),
    ],
)
def test_a_relative_sqlite_file_starts_at_the_folder_of_the_file(
    tmp_path: Path, url: str, expected: str
) -> None:
    (tmp_path / "config.yaml").write_text(f"docker_registry: {{host: a}}\ndb: {{url: '{url}'}}\n")

    found = load_config(tmp_path / "config.yaml").db.url

    assert found is not None
    assert found.get_secret_value() == expected.format(tmp_path)


def test_environment_variables_are_substituted_and_two_dollars_are_one() -> None:
    config = parse_config(
        "docker_registry: {host: '${HOST}:5000'}\nbrewer: {brew_user: u, brew_password: 'a$$b', workers: '${N}'}",
        "config.yaml",
        {"HOST": "registry", "N": "3"},
    )

    assert config.docker_registry.host == "registry:5000"
    assert config.brewer.workers == 3
    assert config.brewer.brew_password is not None
    assert config.brewer.brew_password.get_secret_value() == "a$b"


@pytest.mark.parametrize("written", [b"from the file\n", b"\xef\xbb\xbffrom the file\r\n"])
def test_a_secret_may_be_in_a_file(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "password").write_bytes(written)
    text = f"docker_registry: {{host: a}}\ndb: {{host: b, database: d, password_file: {tmp_path}/password}}"

    config = parse_config(text, "config.yaml", {})

    assert config.db.password is not None
    assert config.db.password.get_secret_value() == "from the file"


def test_a_secret_configured_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("one")
    text = f"docker_registry: {{host: a}}\ndb: {{password: two, password_file: {tmp_path}/password}}"

    assert problems_of(text) == ["db.password: set here and by password_file, expected one of them"]


def test_no_secret_appears_in_a_problem_or_in_the_shown_configuration() -> None:
    text = "docker_registry: {host: a, port: 1}\ndb: {password: [hush-hush]}\nbrewer: {brew_password: {hush-hush: 1}}"

    assert "hush-hush" not in " ".join(problems_of(text))
    assert "P@ssw0rd" not in repr(parse_config(SEED, "seed", {}))


def test_the_error_for_a_missing_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file: name one with -c"):
        load_config(tmp_path / "config.yaml")


def test_a_folder_or_binary_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    for path in (tmp_path, tmp_path / "binary"):
        with pytest.raises(ConfigInvalid, match=r"cannot be read: (is a directory|not text in UTF-8)$"):
            load_config(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [*a]", "line 1: an anchor refers to itself"),
        ("a: &a {b: *a}", "line 1: an anchor refers to itself"),
        ("a: &a {<<: *a}", "line 1: an anchor refers to itself"),
        ("a: &a [1]\nb: &b {c: [*a, {d: *b}]}", "line 2: an anchor refers to itself"),
        (
            "\n".join(
                ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
            ),
            "more than 10000 values, counting those that anchors repeat",
        ),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "x" * 2_000_000, "longer than 1000000 characters"),
        ("db: {port: 1,\n port: 2}", "line 2: the key port appears twice"),
        ("a: [{b: 1, 'b': 2}]", "line 1: the key b appears twice"),
    ],
    ids=[
        "a list in itself",
        "a section in itself",
        "a section merged into itself",
        "itself below",
        "laughs",
        "unclosed",
        "deep",
        "long",
        "a key twice",
        "a key twice in a list",
    ],
)
def test_recursive_repeated_and_exploding_yaml_is_refused_in_one_line(text: str, problem: str) -> None:
    assert problems_of(text) == [problem]


def test_anchors_may_repeat_a_value() -> None:
    config = parse_config(
        "docker_registry: &shared {host: a}\nbrewer: {brew_user: &name robot}\ns3: {access_key: *name, secret_key: *name}",
        "config.yaml",
        {},
    )
    assert config.s3.access_key == "robot"


def keys(section: type[Section] = Config) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        inner = [
            part
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(part, type) and issubclass(part, Section)
        ]
        key = field.alias or name
        yield (key,)
        for one in inner:
            yield from ((key, *more) for more in keys(one))


BAD = [None, 5, -1, 1.5, 1e400, True, "", "a b", "\u2028", [], [None], {}, {"a": "b"}, ["x y"]]


@pytest.mark.parametrize("path", list(keys()), ids=".".join)
def test_problems_of_keys_are_reported_in_plain_words(path: tuple[str, ...]) -> None:
    for bad in BAD:
        raw: dict[str, Any] = {"docker_registry": {"host": "a"}}
        *above, last = path
        section = raw
        for name in above:
            section = section.setdefault(name, {})
        section[last] = bad
        try:
            parse_config(json.dumps(raw), "config.yaml", {})
        except ConfigInvalid as error:
            for problem in error.problems:
                assert re.match(r"[a-z]", problem)
                assert not re.search(
                    r"Input|should|valid |Value error|pattern|not a value that can", problem
                ), problem
