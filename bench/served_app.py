"""The app as a module, for servers that import it: `bench.served_app:app`, configured by BENCH_CONFIG."""

from __future__ import annotations

import os
from pathlib import Path

from core.config.file import load_config
from core.log_lines import set_up_logging
from docker_torrents import Parts
from web.app import build_app

set_up_logging(debug=False)
app = build_app(Parts(load_config(Path(os.environ["BENCH_CONFIG"]))).web)
