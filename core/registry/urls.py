"""The URLs of a registry's API, from the configured templates. No name gets into one unchecked."""

from __future__ import annotations

from core.config.config import DockerRegistry
from core.digest import Digest
from core.names import parse_scope, parse_tag


class RegistryUrls:
    """Invalid scopes and tags raise InvalidName."""

    def __init__(self, settings: DockerRegistry) -> None:
        self._settings = settings
        self._ends = {"proto": settings.proto, "host": settings.host}
        self.base = f"{settings.proto}://{settings.host}/v2/"
        self.catalog = f"{self.base}_catalog"

    def manifest(self, scope: str, reference: str | Digest) -> str:
        """A manifest by tag or by digest."""
        tag = str(reference) if isinstance(reference, Digest) else parse_tag(reference)
        return self._settings.image_resolve_template.format(scope=parse_scope(scope), tag=tag, **self._ends)

    def blob(self, scope: str, digest: Digest) -> str:
        """A layer or a config."""
        blob_sum = self._settings.blob_sum_prefix + digest.hex
        template = self._settings.hash_resolve_template
        return template.format(scope=parse_scope(scope), blob_sum=blob_sum, **self._ends)

    def tags(self, scope: str) -> str:
        """The first page of a repository's tags."""
        return self._settings.tags_resolve_template.format(scope=parse_scope(scope), **self._ends)


def has_name(host: str) -> bool:
    """Whether a registry's host is a name that may be one of several at the same address.

    Then that name is used for requests. One that is named by an address, or by a name without dots as those
    within one machine or one network of containers are, may be reached by the name that its callers use
    for it: distribution's `auth.token.autoredirect` builds the realm of its challenge of that.
    """
    return "." in host and not host.rpartition(".")[2].isdigit()
