"""The URLs of a layer's web seeds (BEP 19), and the secret that signs the capabilities in them."""

from __future__ import annotations

import logging
from pathlib import Path

from core.config.config import Config
from core.digest import Digest
from core.secret_file import own_secret
from core.torrents.capability import mint

log = logging.getLogger(__name__)


def warn_of_useless_torrents(config: Config) -> None:
    """Log a warning if torrents have neither a tracker nor a web seed."""
    if not (config.trackers or config.web_seeds):
        log.warning(
            "torrents have neither tracker nor web seed, so they cannot be downloaded: "
            "set torrents.trackers and application.public_url"
        )


def web_seed_urls(config: Config, secret: bytes, scope: str, digest: Digest, now: float) -> list[str]:
    """Return the layer's URLs from the configured templates, with a capability of limited validity."""
    fields = {
        "public_url": (config.application.public_url or "").rstrip("/"),
        "scope": scope,
        "digest": str(digest),
        "hex": digest.hex,
        "short_digest": digest.short,
        "capability": mint(secret, digest, scope, int(now) + config.torrents.web_seed_lifetime),
    }
    return [template.format_map(fields) for template in config.web_seeds]


def capability_secret(config: Config) -> bytes:
    """Return the key of capabilities: as configured, else one created at first use. Raises ConfigInvalid."""
    secret = config.torrents.web_seed_secret
    return secret.get_secret_value().encode() if secret else own_secret(_secret_file(config))


def has_capability_secret(config: Config) -> bool:
    """Return whether the key is configured or already created."""
    return config.torrents.web_seed_secret is not None or _secret_file(config).exists()


def _secret_file(config: Config) -> Path:
    return config.application.state_dir / "web_seed_secret"
