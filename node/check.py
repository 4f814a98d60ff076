"""`mirror check`, and `check` on a node: can engines pull through a mirror with this configuration?"""

from __future__ import annotations

from collections.abc import Iterator

from core.clients import http_client
from core.command_line import DONE, FAILED
from core.config.config import Config
from core.digest import Digest
from core.errors import BadAnswer, CacheFailed, RemoteError
from core.http.client import HttpAnswer, HttpClient
from core.listening import check_free
from core.output import print_line
from core.probing import Probe, check, exists, tls_probes, why_unusable
from node.cache import Cache
from node.local_mirror import LocalMirror
from node.upstream import Upstream

# A layer that no registry has: the answer shows only which component authorizes callers.
_SCOPE = "docker-torrents/check"
_DIGEST = Digest("0" * 64)


def is_node(config: Config) -> bool:
    """Return whether the configuration is that of a node alone."""
    # How a mirror logs is in a section that is otherwise the service's.
    only_log = config.application.model_fields_set <= {"log_format"}
    allowed = {"docker_registry", "mirror", "tls", "http", *(["application"] if only_log else [])}
    return "mirror" in config.model_fields_set <= allowed


def check_node(config: Config) -> int:
    """Print a line for each part that the mirror depends on. Return the exit status."""
    settings = config.docker_registry
    http = http_client(config, settings.connect_timeout, settings.read_timeout)
    upstream = Upstream(settings, config.mirror.torrents_url, http)
    try:
        summary = check(_probes(config, upstream))
    finally:
        upstream.close()
    print_line(str(summary))
    return FAILED if summary.failed else DONE


def _probes(config: Config, upstream: Upstream) -> Iterator[tuple[str, Probe]]:
    yield "registry", lambda: _registry(upstream)
    registry, torrents_url = config.docker_registry, config.mirror.torrents_url
    urls = [f"{registry.proto}://{registry.host}", *([torrents_url] if torrents_url else [])]
    yield from tls_probes(urls, config.tls.ca_file, config.http.proxy is not None)
    yield "torrents", lambda: _torrents(upstream.probe_torrent(_SCOPE, _DIGEST))
    yield "mirror", lambda: _mirror(config)


def _registry(upstream: Upstream) -> str:
    answer = upstream.fetch("GET", upstream.urls.base, None)
    if answer.status not in (200, 401):
        raise BadAnswer(str(answer.target), f"status {answer.status}")
    if answer.status == 401 and upstream.withholds_credentials():
        why = "it requires credentials, which are not sent in cleartext: set docker_registry.proto to https"
        raise BadAnswer(str(answer.target), why)
    return f"{answer.target} answers {answer.status}"


def _torrents(answer: HttpAnswer) -> str:
    """Return how the service authorizes callers, by its answer for a nonexistent layer (docs/http-api.md)."""
    where, text = str(answer.target), answer.body[:1000].decode(errors="replace")
    challenge = answer.headers.get("WWW-Authenticate") or ""
    if "X-Real-IP" in text:
        raise BadAnswer(
            where, "Blackbox authorizes callers but X-Real-IP is missing: nginx in front must set it"
        )
    if challenge.startswith("OAuth"):
        return f"{where}: Blackbox authorizes callers, engines get torrents if their Bearer token is its own"
    if answer.status == 503:
        raise BadAnswer(where, "the service cannot reach the server that authorizes callers")
    if answer.status in (401, 403) or '"BLOB_UNKNOWN"' in text:
        return f"{where}: the registry authorizes callers, engines get torrents"
    why = f"status {answer.status}, no torrents are served here: set mirror.torrents_url"
    raise BadAnswer(where, why)


def _mirror(config: Config) -> str:
    mirror = config.mirror
    # On this machine, without a proxy and without TLS.
    local = LocalMirror(mirror, HttpClient(config.docker_registry.connect_timeout, 30.0))
    try:
        status = local.status()
    except RemoteError:
        pass
    else:
        return f"runs at {local.netloc}, {len(status['cache']['layers'])} layers in its cache"
    check_free(mirror.host, mirror.port)
    check_free(mirror.peer_host, mirror.peer_port)
    folder = mirror.cache_dir
    if exists(folder):
        Cache(folder, mirror.cache_size, mirror.keep_free).close()
        found = f"{folder} is usable"
    elif (why := why_unusable(folder)) is None:
        found = f"{folder} will be created"
    else:
        remedy = "create it, change its owner to the mirror's user, or set mirror.cache_dir"
        raise CacheFailed(str(folder), f"it cannot be created: {why}: {remedy}")
    return f"not running; ports {mirror.port} and {mirror.peer_port} are free, {found}"
