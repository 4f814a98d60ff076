"""What a line of the log looks like, and whose lines are left out."""

from __future__ import annotations

import logging
import time


def set_up_logging(debug: bool) -> None:
    """One event a line, on standard error, times in UTC."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    for chatty in ("botocore", "boto3", "s3transfer"):
        # At DEBUG they log headers and URLs, and with them signatures (urllib3: core/http/client.py).
        logging.getLogger(chatty).setLevel(logging.WARNING)
