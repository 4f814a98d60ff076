"""The app as a module, for servers that import it: `bench.served_app:app`, configured by BENCH_CONFIG."""

from __future__ import annotations

import os
from pathlib import Path

from core.config.file import load_config
from core.logs import set_up_logging
from docker_torrents import web_parts
from jobs.service import Service
from web.app import build_app

set_up_logging(debug=False)
app = build_app(web_parts(Service(load_config(Path(os.environ["BENCH_CONFIG"])))))
