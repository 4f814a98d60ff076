"""The registry as the only authority: callers get its answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import unquote

from core.digest import Digest
from core.errors import AccessDenied, BadAnswer
from core.http.client import HttpAnswer
from core.registry.answers import is_html
from core.registry.client import RegistryClient

log = logging.getLogger(__name__)

_ERRORS = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("BLOB_UNKNOWN", "blob unknown to registry"),
    429: ("TOOMANYREQUESTS", "too many requests"),
}
# Headers that a client needs for its next attempt.
_PASSED_ON = ("WWW-Authenticate", "Retry-After")


class RegistryAccess:
    """`application.authorization: registry`."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    def admit(self, headers: Mapping[str, str]) -> None:
        """Admit every caller to the registry."""

    def may_pull(self, scope: str, digest: Digest, authorization: str | None) -> None:
        """See Access. A redirect to the storage is permission: the registry redirects only callers with
        access.
        """
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = self._registry.forward("HEAD", self._registry.urls.blob(scope, digest), headers)
        if (answer.status == 200 and not is_html(answer.headers)) or leads_to_storage(answer, digest):
            return
        if answer.status not in _ERRORS:
            log.warning("registry gave no verdict status=%d url=%s", answer.status, answer.target)
        unknown = ("UNAVAILABLE", f"the registry answered {answer.status}, access cannot be checked now")
        code, message = _ERRORS.get(answer.status, unknown)
        status = answer.status if answer.status in _ERRORS else 502
        passed_on = [(name, value) for name in _PASSED_ON for value in answer.headers.all(name)]
        raise AccessDenied(status, tuple(passed_on), code, message)


def leads_to_storage(answer: HttpAnswer, digest: Digest) -> bool:
    """Return whether the answer is docker/distribution's redirect to the blob in its storage: 307, to another
    server, at the blob's path (registry/storage/paths.go).

    Proxies in front of registries redirect too, with 307 among others: to https, to a canonical name, to a
    login page. These redirects say nothing about access to the blob.
    """
    location = answer.headers.get("Location")
    if answer.status != 307 or not location:
        return False
    try:
        onward = answer.target.join(location)
    except BadAnswer:
        return False
    elsewhere = onward.host != answer.target.host or (
        onward.port != answer.target.port and onward.scheme == answer.target.scheme
    )
    # Azure escapes the slashes within the path.
    path = unquote(onward.path.partition("?")[0])
    return elsewhere and path.endswith(f"/blobs/sha256/{digest.short}/{digest.hex}/data")
