"""How many requests of each kind a worker handles at once, and the threads that this takes."""

from __future__ import annotations

REGISTRY_REQUESTS = 96
"""Requests that may wait for the registry at once."""
REGISTRY_WAITING = 512

DOWNLOADS = 128
"""Layers that are sent at once."""
DOWNLOADS_WAITING = 256
"""Downloads that wait for a slot. A torrent client that gets a 503 never asks that web seed again."""

NOTIFICATIONS = 64
"""Notifications that are handled at once; with a database that hangs, each takes seconds."""

THREADS = REGISTRY_REQUESTS + REGISTRY_WAITING + DOWNLOADS + DOWNLOADS_WAITING + NOTIFICATIONS + 48
"""Threads of a worker, started when needed: all that may wait, and some for the rest (`/ping`)."""
