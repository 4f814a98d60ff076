"""The lease table with 100 to 10,000 simulated nodes (bench/simulated_nodes.py), and with failures."""

from __future__ import annotations

import time
from dataclasses import dataclass

from matplotlib.axes import Axes

from bench.report import Target, report
from bench.simulated_nodes import Outcome, Simulation

SIZES = (100, 256, 1_000, 3_000, 10_000)
CHUNKS = 256
MAX_TIME_RATIO = 1.5
MAX_LAYERS = 1.05
MAX_LAYERS_IN_TROUBLE = 1.5
TOGETHER = "all at once"


@dataclass(frozen=True)
class Simulated:
    """One simulation."""

    scenario: str
    nodes: int
    outcome: Outcome
    seconds: float


def main() -> None:
    """Simulate and report."""
    found = simulate()
    report(
        "swarm_simulated",
        [
            {
                "scenario": one.scenario,
                "nodes": one.nodes,
                "last node": one.outcome.last_node,
                "median node": one.outcome.median_node,
                "layers from origin": one.outcome.origin_layers,
                "calls/s": one.outcome.calls_per_second,
                "in order at 55 %": one.outcome.in_order,
                "simulated in s": one.seconds,
            }
            for one in found
        ],
        [
            "scenario",
            "nodes",
            "last node",
            "median node",
            "layers from origin",
            "calls/s",
            "in order at 55 %",
            "simulated in s",
        ],
        f"Simulated nodes download a layer of {CHUNKS} chunks (64 MiB at 100 Mbit/s or as named) as the "
        "lease table directs, each connected to at most 50 others. Times are from a node's start, in units "
        "of what one node alone needs; calls/s: the highest second after the start. Leases of dead nodes "
        "expire after 5 s, about one layer's time.",
        lambda axes: draw(axes, found),
        targets(found),
    )


def targets(found: list[Simulated]) -> list[Target]:
    """Return the requirements; 1.5 layers with failures."""
    together = [one for one in found if one.scenario == TOGETHER]
    slowest = max(one.outcome.last_node for one in together)
    layers = max(one.outcome.origin_layers for one in together)
    trouble = max(
        one.outcome.origin_layers for one in found if one.scenario not in (TOGETHER, *UNCOORDINATED)
    )
    return [
        Target(
            f"last of {SIZES[0]} to {SIZES[-1]:,} nodes within {MAX_TIME_RATIO} times one node alone",
            f"{slowest:.2f}",
            slowest <= MAX_TIME_RATIO,
        ),
        Target(
            f"the origin sends at most {MAX_LAYERS} layers to any number of nodes",
            f"{layers:.2f}",
            layers <= MAX_LAYERS,
        ),
        Target(
            f"at most {MAX_LAYERS_IN_TROUBLE} layers with nodes that join, die, or a service that restarts",
            f"{trouble:.2f}",
            trouble <= MAX_LAYERS_IN_TROUBLE,
        ),
    ]


UNCOORDINATED = ("two services that do not know each other", "four services that do not know each other")


def simulate(sizes: tuple[int, ...] = SIZES, other_nodes: int = 1_000) -> list[Simulated]:
    """Simulate each number of nodes, and each scenario with `other_nodes`."""
    found = [run(TOGETHER, Simulation(nodes)) for nodes in sizes]
    scenarios = {
        "joining over one layer's time": Simulation(
            other_nodes, join_steps=lambda node: node * CHUNKS // other_nodes
        ),
        "the 16 that fetch die in the middle": Simulation(other_nodes, kill_holders_at=CHUNKS // 2),
        "the service restarts in the middle": Simulation(other_nodes, restart_at=CHUNKS // 2),
        "one in eight uploads at a sixteenth of the speed": Simulation(
            other_nodes, slow_uploads=other_nodes // 8
        ),
        "25 Mbit/s": Simulation(other_nodes, step_seconds=0.084),
        "1 Gbit/s": Simulation(other_nodes, step_seconds=0.0021),
        "a layer of 16 chunks": Simulation(other_nodes, chunks=16),
        UNCOORDINATED[0]: Simulation(other_nodes, services=2),
        UNCOORDINATED[1]: Simulation(other_nodes, services=4),
    }
    return found + [run(name, simulation) for name, simulation in scenarios.items()]


def run(scenario: str, simulation: Simulation) -> Simulated:
    """Run one simulation and time it."""
    begun = time.perf_counter()
    outcome = simulation.run()
    return Simulated(scenario, simulation.nodes.count, outcome, time.perf_counter() - begun)


def draw(axes: Axes, found: list[Simulated]) -> None:
    """Plot the last node's time and the layers sent over the number of nodes."""
    together = [one for one in found if one.scenario == TOGETHER]
    nodes = [one.nodes for one in together]
    axes.plot(nodes, [one.outcome.last_node for one in together], marker="o", label="last node")
    axes.plot(nodes, [one.outcome.median_node for one in together], marker="o", label="median node")
    axes.plot(
        nodes, [one.outcome.origin_layers for one in together], marker="s", label="layers from the origin"
    )
    axes.axhline(MAX_TIME_RATIO, linestyle="--", color="grey", label="at most (time)")
    axes.set_xscale("log")
    axes.set_ylim(0, 2)
    axes.set_xlabel("nodes")
    axes.set_ylabel("times one node alone; layers")
    axes.set_title("One layer to many nodes at once, by simulation")
    axes.grid(alpha=0.3)
    axes.legend()


if __name__ == "__main__":
    main()
