"""Errors of the operating system in the words of messages for operators."""

from __future__ import annotations

import os
import pwd


def os_reason(error: OSError) -> str:
    """Return the system's reason without the path; for a missing permission with the name of this user."""
    why = error.strerror or str(error)
    why = why[:1].lower() + why[1:]
    return f"{why} for user {user_name()}" if isinstance(error, PermissionError) else why


def user_name() -> str:
    """Return the name of this process's user, or else the number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
