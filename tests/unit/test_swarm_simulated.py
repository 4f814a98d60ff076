"""The lease table with simulated nodes: the origin sends about one layer, and the last node is done in time."""

from __future__ import annotations

import pytest

from bench.simulated_nodes import Outcome, Simulation

NODES = 100


def ended(**settings: object) -> Outcome:
    return Simulation(NODES, **settings).run()  # type: ignore[arg-type]


def test_the_origin_sends_one_layer_to_many_nodes_and_the_last_is_done_in_time() -> None:
    outcome = ended()

    assert outcome.last_node <= 1.5
    assert outcome.origin_layers <= 1.05
    assert outcome.calls_per_second <= 250
    assert outcome.in_order >= 0.3


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_few_nodes_leave_no_line_idle(nodes: int) -> None:
    outcome = Simulation(nodes).run()

    assert outcome.last_node <= 1.2
    assert outcome.origin_layers == pytest.approx(1)


def test_nodes_that_join_later_add_no_load_to_the_origin() -> None:
    outcome = ended(join_steps=lambda node: 2 * node)

    assert outcome.origin_layers <= 1.05
    assert outcome.last_node <= 1.5


def test_chunks_of_dead_holders_are_fetched_by_others() -> None:
    outcome = ended(kill_holders_at=100)

    assert outcome.origin_layers <= 1.2
    assert outcome.last_node <= 3


def test_a_service_that_restarts_costs_some_chunks() -> None:
    outcome = ended(restart_at=100)

    assert outcome.origin_layers <= 1.3
    assert outcome.last_node <= 1.5


def test_nodes_that_upload_slowly_do_not_hold_up_the_others() -> None:
    outcome = Simulation(16, slow_uploads=2, step_seconds=0.042).run()

    assert outcome.origin_layers <= 1.05
    assert outcome.last_node <= 1.8, "2.1 where slow nodes get as many leases as others"
