"""The report of a benchmark: a table on the terminal, JSON and a plot in bench/results/."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

matplotlib.use("Agg")

import matplotlib.pyplot as plt

BENCH = Path(__file__).parent
RESULTS = BENCH / "results"
SCRATCH = BENCH / "scratch"


@dataclass(frozen=True)
class Target:
    """A requirement with its figure, the measured value, and whether it is met."""

    requirement: str
    measured: str
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'DOES NOT HOLD'}: {self.requirement}; measured: {self.measured}"


def report(
    name: str,
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    note: str,
    plot: Callable[[Axes], None],
    targets: Sequence[Target] = (),
) -> None:
    """Print `rows` under `note` (what was measured and how), with the targets and whether they are met.

    A row maps columns' names to values; units belong in the name (`MB/s`). The same goes, with the
    machine, into results/<name>.json, and what `plot` draws into results/<name>.png.
    """
    print(f"\n{note}\n\n{table(rows, columns)}\n")
    for target in targets:
        print(target)
    RESULTS.mkdir(exist_ok=True)
    record = {
        "name": name,
        "note": note,
        "machine": machine(),
        "rows": [{column: row.get(column) for column in columns} for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    try:
        plot(axes)
        figure.savefig(RESULTS / f"{name}.png", dpi=110)
    finally:
        plt.close(figure)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Return `rows` as text: a line of headings, a rule, a line a row; figures right-aligned."""
    cells = [list(columns)] + [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    figures = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, figures, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Return the environment: processor, cores, memory in GiB, Python, kernel, other load."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_in_the_last_minute": round(os.getloadavg()[0], 1),
    }


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
