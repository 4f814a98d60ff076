"""The app as a module, for servers that import it: `bench.served_app:app`, configured by BENCH_CONFIG."""

from __future__ import annotations

import os
from pathlib import Path

from core.config.file import load_config
from docker_torrents import start_worker

app = start_worker(load_config(Path(os.environ["BENCH_CONFIG"])), debug=False)
