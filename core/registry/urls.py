"""The URLs of a registry's API, from the configured templates, with validated names."""

from __future__ import annotations

from core.config.config import DockerRegistry
from core.digest import Digest
from core.names import parse_scope, parse_tag


class RegistryUrls:
    """Builds URLs. Invalid scopes and tags raise InvalidName."""

    def __init__(self, settings: DockerRegistry) -> None:
        self._settings = settings
        self._server = {"proto": settings.proto, "host": settings.host}
        self.base = f"{settings.proto}://{settings.host}/v2/"
        self.catalog = f"{self.base}_catalog"

    def manifest(self, scope: str, reference: str | Digest) -> str:
        """Return the URL of a manifest, by tag or digest."""
        tag = str(reference) if isinstance(reference, Digest) else parse_tag(reference)
        return self._settings.image_resolve_template.format(scope=parse_scope(scope), tag=tag, **self._server)

    def blob(self, scope: str, digest: Digest) -> str:
        """Return the URL of a blob."""
        blob_sum = self._settings.blob_sum_prefix + digest.hex
        template = self._settings.hash_resolve_template
        return template.format(scope=parse_scope(scope), blob_sum=blob_sum, **self._server)

    def tags(self, scope: str) -> str:
        """Return the URL of the first page of a repository's tags."""
        return self._settings.tags_resolve_template.format(scope=parse_scope(scope), **self._server)


def has_name(host: str) -> bool:
    """Return whether a registry's host is a name that may be one of several at the same address.

    Then that name is used for requests. With an address, or a name without dots (within one machine or one
    network of containers), requests may have the callers' `Host`: distribution's `auth.token.autoredirect`
    makes the realm of its challenge from it.
    """
    return "." in host and not host.rpartition(".")[2].isdigit()
