"""`docker_torrents` whose mirror waits long for the service and the swarm, as the machine may be busy:
`python -m tests.long_wait_mirror -c FILE mirror`, in the folder of the repository.

The mirror's worker is a spawned process, which imports this module too.
"""

from __future__ import annotations

import sys

import docker_torrents
import node.fallback
import node.upstream

node.upstream.TORRENT_SECONDS = 60.0
node.fallback.STALLED_SECONDS = 120.0

if __name__ == "__main__":
    sys.exit(docker_torrents.main())
