"""The JSON of the registry's errors, which its clients understand.

Format: docker/distribution, spec/api.md, Errors: `{"errors": [{code, message, detail}]}`.
"""

from __future__ import annotations

import json

ERROR_TYPE = "application/json; charset=utf-8"


def error_body(code: str, message: str, detail: object = None) -> bytes:
    """Return the body of an error. `message` and `detail` must not contain a secret."""
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode() + b"\n"
