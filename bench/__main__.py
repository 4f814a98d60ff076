"""`python -m bench [NAME ...]`: run the benchmarks one after another, each in its own process."""

from __future__ import annotations

import subprocess
import sys

BENCHES = [
    "brew_large",
    "ranges",
    "small_layers",
    "brewers",
    "scan",
    "claim",
    "database",
    "storage",
    "legacy",
    "events",
    "latency",
    "web_seed",
    "manifests",
    "servers",
    "mirror",
    "swarm",
    "swarm_simulated",
]


def main(names: list[str]) -> int:
    """Run these benchmarks, or all. Return 1 if one could not be run; a missed target is not an error."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; choose from: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or BENCHES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"]).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"could not be run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
