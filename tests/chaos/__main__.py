"""`make chaos`, `python -m tests.chaos [--seconds N] [--seed N] [--storage s3|disk]`: 1 if something went wrong."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.cluster import Storage, can_mount
from tests.chaos.run import run_chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults go on (default 600)")
    parser.add_argument("--seed", type=int, help="that of an earlier run (default: a new one)")
    parser.add_argument("--storage", choices=("s3", "disk"), help="where metainfo is (default: by the seed)")
    parser.add_argument("--logs", type=Path, help="a new folder for all logs and data, which stays")
    arguments = parser.parse_args()
    # All processes are ended on the way out.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    storage: Storage = arguments.storage or ("s3", "disk")[seed % 2]
    if storage == "disk" and not can_mount():
        print("left out: the full disk, as this user may mount none; metainfo is in S3 instead")
        storage = "s3"
    try:
        violations = _run(arguments.logs, arguments.seconds, seed, storage)
    except KeyboardInterrupt:
        print(f"chaos: interrupted, seed {seed}")
        return 130
    if violations:
        print(f"chaos: {len(violations)} violations, seed {seed}:", *violations, sep="\n  ")
    else:
        print(f"chaos: nothing went wrong, seed {seed}")
    return 1 if violations else 0


def _run(logs: Path | None, seconds: float, seed: int, storage: Storage) -> list[str]:
    if logs is not None:
        logs.mkdir(parents=True)
        return run_chaos(logs, seconds=seconds, seed=seed, storage=storage)
    with tempfile.TemporaryDirectory(prefix="docker-torrents-chaos-") as folder:
        return run_chaos(Path(folder), seconds=seconds, seed=seed, storage=storage)


if __name__ == "__main__":
    sys.exit(main())
