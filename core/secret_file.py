"""A secret of the installation, created at first use in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from core.errors import ConfigInvalid
from core.os_errors import os_reason

_BYTES = 32


def own_secret(path: Path) -> bytes:
    """Return the secret in the file at `path`, which is created if missing.

    Several processes may call this at once: all get the same secret. Raises ConfigInvalid if
    the file cannot be written or read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            made = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            made.touch(mode=0o600, exist_ok=False)
            try:
                made.write_text(secrets.token_hex(_BYTES), encoding="ascii")
                # A link fails if another process was faster, and the file is never seen half-written.
                os.link(made, path)
            except FileExistsError:
                pass
            finally:
                made.unlink()
        secret = path.read_text(encoding="ascii").strip().encode("ascii")
    except OSError as error:
        raise ConfigInvalid(
            str(path), [f"the secret cannot be created or read: {os_reason(error)}"]
        ) from None
    except UnicodeError:
        raise ConfigInvalid(str(path), ["the secret is not ASCII text"]) from None
    if len(secret) < _BYTES:
        raise ConfigInvalid(str(path), [f"the secret is too short, expected {_BYTES} characters or more"])
    return secret
