"""The configuration: sections and keys of config.yaml, their defaults and their validation.

Times are seconds, sizes bytes. A secret `x` may be in a file instead, named by `x_file`. Reading the
file, the environment and reporting problems is core/config/file.py.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    model_validator,
)

from core.config.addresses import (
    Network,
    Port,
    RegistryHost,
    Url,
    check_proxy,
    check_tracker,
    check_url,
)
from core.config.database import Db, problems_of
from core.config.jobs import Jobs, PlatformName
from core.config.mirror import Mirror
from core.config.section import FilePath, Section
from core.config.values import Count, Seconds, Timeout, WholeSeconds, check_template, matching, template
from core.manifests.media_types import ALL_MANIFESTS

_SECRET_LENGTH = 32


def _long_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < _SECRET_LENGTH:
        raise ValueError(f"expected {_SECRET_LENGTH} characters or more")
    return value


def _none_if_empty(value: object) -> object:
    """Return None for an empty text, for example from an environment variable."""
    return None if value == "" else value


def _web_seed(value: str) -> str:
    fields = ("scope", "digest", "hex", "short_digest", "capability", "public_url")
    check_template(value, required=set(), optional=frozenset(fields))
    if not value.startswith("{public_url}/"):
        check_url(value.format_map(dict.fromkeys(fields, "a")))
    return value


def _registry_url(*required: str) -> AfterValidator:
    """Return a validator of templates of the registry's URLs."""

    def validate(value: str) -> str:
        check_template(value, required=set(required), optional=frozenset(("proto", "host")))
        fields = {"proto": "https", "host": "a"} | dict.fromkeys(required, "a")
        check_url(value.format_map(fields))
        return value

    return AfterValidator(validate)


# As in boto3, without the names of AWS access points.
BucketName = Annotated[
    str, matching(r"[A-Za-z0-9._-]{1,255}", "the name of a bucket: letters, digits, dots, - and _")
]
Region = Annotated[
    str, matching(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", "a region such as us-east-1")
]
Namespace = Annotated[str, matching(r"[A-Za-z0-9_.-]+", "letters, digits, dots, - and _")]


def _loopback() -> list[Network]:
    return [ip_network("127.0.0.0/8"), ip_network("::1/128")]


class Application(Section):
    port: Port = 10050
    host: str = "::"
    event_authorization_file: FilePath | None = None
    event_authorization: SecretStr | None = None
    authorization: Literal["registry", "blackbox"] | None = None
    public_url: Url | None = None
    state_dir: FilePath = Path("/var/lib/docker-registry-torrents")
    trusted_proxies: list[Network] = Field(default_factory=_loopback)
    status_networks: list[Network] = Field(default_factory=_loopback)
    swarm_port: Port = 10051
    metrics_port: Port | None = None
    log_format: Literal["text", "json"] = "text"


class DockerRegistry(Section):
    host: RegistryHost
    proto: Literal["http", "https"] = "https"
    image_resolve_template: Annotated[str, _registry_url("scope", "tag")] = (
        "{proto}://{host}/v2/{scope}/manifests/{tag}"
    )
    hash_resolve_template: Annotated[str, _registry_url("scope", "blob_sum")] = (
        "{proto}://{host}/v2/{scope}/blobs/{blob_sum}"
    )
    tags_resolve_template: Annotated[str, _registry_url("scope")] = "{proto}://{host}/v2/{scope}/tags/list"
    blob_sum_prefix: Literal["sha256:", ""] = "sha256:"
    compatibility_header: str = Field(default=", ".join(ALL_MANIFESTS), min_length=1)
    default_platform: PlatformName = "linux/amd64"
    connect_timeout: Timeout = 2.0
    read_timeout: Timeout = 30.0
    catalog_timeout: Timeout = 120.0


class Blackbox(Section):
    url_template: Annotated[Url, template("payload")]
    scopes: str = Field(default="registry:use", min_length=1)
    connect_timeout: Timeout = 0.2
    read_timeout: Timeout = 0.5
    verdict_ttl: Annotated[float, Field(ge=0, le=3600)] = 60.0


class Mds(Section):
    url_template: Annotated[Url, template("payload")]
    namespace: Namespace = "docker-registry"
    torrent_url: Annotated[str, AfterValidator(check_tracker)] | None = None
    connect_timeout: Timeout = 0.5
    read_timeout: Timeout = 600.0


class Brewer(Section):
    brew_discard_timeout: WholeSeconds = 300
    sleep_time: Seconds = 10.0
    layers_per_chunk: Count = 10
    brew_user: str | None = None
    brew_password_file: FilePath | None = None
    brew_password: Annotated[SecretStr | None, BeforeValidator(_none_if_empty)] = None
    workers: Annotated[int, Field(ge=1, le=256)] = 4
    max_attempts: Count = 8


class Layers(Section):
    source: Literal["registry", "s3", "directory", "mds"] = "registry"
    directory: FilePath | None = None
    bucket: Annotated[BucketName | None, BeforeValidator(_none_if_empty)] = None
    prefix: str = ""
    connections: Annotated[int, Field(ge=1, le=64)] = 8


class Torrents(Section):
    store: Literal["directory", "s3"] = "directory"
    directory: FilePath | None = None
    trackers: list[Annotated[str, AfterValidator(check_tracker)]] | None = None
    web_seeds: list[Annotated[str, AfterValidator(_web_seed)]] | None = None
    web_seed_secret_file: FilePath | None = None
    web_seed_secret: Annotated[SecretStr, AfterValidator(_long_secret)] | None = None
    web_seed_lifetime: WholeSeconds = 86400
    private: bool = True


class S3(Section):
    endpoint_url: Url | None = None
    region: Annotated[Region | None, BeforeValidator(_none_if_empty)] = None
    bucket: Annotated[BucketName | None, BeforeValidator(_none_if_empty)] = None
    access_key: str | None = None
    secret_key_file: FilePath | None = None
    secret_key: SecretStr | None = None
    prefix: str = ""


class Tls(Section):
    ca_file: FilePath | None = None


def _proxy_url(value: SecretStr) -> SecretStr:
    check_proxy(value.get_secret_value())
    return value


class Http(Section):
    proxy: Annotated[SecretStr, AfterValidator(_proxy_url)] | None = None


class Config(Section):
    """The whole configuration, validated section by section and then as one."""

    docker_registry: DockerRegistry
    application: Application = Application()
    blackbox: Blackbox | None = None
    mds: Mds | None = None
    brewer: Brewer = Brewer()
    layers: Layers = Layers()
    torrents: Torrents = Torrents()
    s3: S3 = S3()
    tls: Tls = Tls()
    http: Http = Http()
    db: Db = Db()
    jobs: Jobs = Jobs()
    mirror: Mirror = Mirror()

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        problems = []
        if self.application.authorization == "blackbox" and self.blackbox is None:
            problems.append("application.authorization is blackbox, but the section blackbox is missing")
        if self.layers.source == "mds" and self.mds is None:
            problems.append("layers.source is mds, but the section mds is missing")
        if self.layers.source == "directory" and self.layers.directory is None:
            problems.append("layers.source is directory, but layers.directory is missing")
        if self.layers.source == "s3" and not self.layers.bucket:
            problems.append("layers.source is s3, but layers.bucket is missing")
        if self.torrents.store == "s3" and not self.s3.bucket:
            problems.append("torrents.store is s3, but s3.bucket is missing")
        if bool(self.s3.access_key) != (self.s3.secret_key is not None):
            problems.append("s3.access_key and s3.secret_key are needed together, but only one is set")
        if self.brewer.brew_password is not None and not self.brewer.brew_user:
            problems.append("brewer.brew_password is set, but brewer.brew_user is missing")
        if self.mirror.port == self.mirror.peer_port:
            problems.append(
                f"mirror.port and mirror.peer_port are both {self.mirror.port}, expected two ports"
            )
        problems += problems_of(self.db)
        if self.application.public_url is None and any(
            "{public_url}" in template or "{capability}" in template
            for template in self.torrents.web_seeds or []
        ):
            problems.append(
                "torrents.web_seeds uses {public_url} or {capability}, but application.public_url is missing"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def authorization(self) -> Literal["registry", "blackbox"]:
        """The authority for callers: as configured, else Blackbox if it has a section, else the registry."""
        return self.application.authorization or ("blackbox" if self.blackbox else "registry")

    @property
    def metainfo_dir(self) -> Path:
        """The directory of the metainfo store."""
        return self.torrents.directory or self.application.state_dir / "metainfo"

    @property
    def trackers(self) -> list[str]:
        """Announce URLs."""
        if self.torrents.trackers is not None:
            return self.torrents.trackers
        return [self.mds.torrent_url] if self.mds and self.mds.torrent_url else []

    @property
    def web_seeds(self) -> list[str]:
        """Templates of web seeds: as configured, else this app if `public_url` is set."""
        if self.torrents.web_seeds is not None:
            return self.torrents.web_seeds
        return ["{public_url}/v0/layers/{capability}/{hex}"] if self.application.public_url else []
