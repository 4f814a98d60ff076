"""Numbers in the configuration, each with a maximum that clocks, databases and the system support."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST = 1_000_000_000
"""Seconds (some 30 years) or items: ample, and a time plus this is still a valid date."""

Timeout = Annotated[float, Field(gt=0, le=1_000_000)]
"""How long to wait for a network, in seconds: poll(2) counts milliseconds in 32 bits."""

Seconds = Annotated[float, Field(gt=0, le=MOST)]
WholeSeconds = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Rate = Annotated[float, Field(gt=0, le=MOST)]
