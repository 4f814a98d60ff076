"""The registry's verdict alone: everybody may ask it, and its answer is what the caller gets."""

from __future__ import annotations

from collections.abc import Mapping

from core.access.access import AccessDenied
from core.digest import Digest
from core.http.client import REDIRECTS
from core.registry.client import RegistryClient

_SAYINGS = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("BLOB_UNKNOWN", "blob unknown to registry"),
    429: ("TOOMANYREQUESTS", "too many requests"),
}
# What a client needs to make a better try.
_PASSED_ON = ("WWW-Authenticate", "Retry-After")


class RegistryAccess:
    """`application.authorization: registry`."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    def admit(self, headers: Mapping[str, str]) -> None:
        """Everybody may ask the registry."""

    def may_pull(self, scope: str, digest: Digest, authorization: str | None) -> None:
        """See Access. A redirect is a yes: the registry sends nobody to its storage who may not go there."""
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = self._registry.forward_blob_head(scope, digest, headers)
        if answer.status == 200 or answer.status in REDIRECTS:
            return
        code, message = _SAYINGS.get(answer.status, ("UNAVAILABLE", "the registry does not say who may pull"))
        status = answer.status if answer.status in _SAYINGS else 502
        passed_on = [(name, value) for name in _PASSED_ON for value in answer.headers.all(name)]
        raise AccessDenied(status, tuple(passed_on), code, message)
