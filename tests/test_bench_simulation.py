"""The simulations, held against what theory says of queues, and what no simulation may break."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import pytest

from bench.results import Measurement
from bench.scenarios.front_ends import SETUPS
from bench.simulation import scaling
from bench.simulation.cells import Cells
from bench.simulation.cluster import POLICIES, Answers, Cell, LeastConnections, Policy, exponential, mixed, spread
from bench.simulation.costs import NotMeasured, line, page_seconds, workloads
from bench.simulation.machine import Cost, Layout, Machine, Workload
from bench.simulation.machines import DIVIDED, SHARED, Machines, best_count
from bench.simulation.scaling import Rule
from bench.simulation.sizes import COPIES_BY_NODE, Sizes, made_up
from bench.tables import OURS
from tests.test_bench import MACHINE, measured

SERVICE = 0.05
US = 1e-6
TINY = Workload(
    "fit", Cost(40 * US, 12 * US), Cost(40 * US, 12 * US), Cost(10 * US, 6 * US), Cost(20 * US, 2 * US), batch_size=32
)
HEAVY = Workload("resnet50", Cost(0, 500 * US), Cost(0, 500 * US), Cost(0, 100 * US), Cost(0, 0.05), batch_size=1)


def erlang_c(servers: int, load: float) -> float:
    """The probability of waiting in M/M/c; `load` is the arrival rate by the rate of one server."""
    term = total = 1.0
    for count in range(1, servers):
        term *= load / count
        total += term
    last = term * load / servers / (1 - load / servers)
    return last / (total + last)


def ran(
    policy: Callable[[random.Random], Policy] | None, *, nodes: int = 4, workers: int = 2, busy: float = 0.8
) -> Answers:
    rate = busy * nodes * workers / SERVICE
    return Cell(nodes, workers, exponential(SERVICE), policy, seed=3).run(lambda _: rate, rate, 20, 40_000 / rate)


# Cells


def test_the_yardstick_itself() -> None:
    assert erlang_c(1, 0.5) == pytest.approx(0.5)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("nodes", "busy"), [(1, 0.7), (4, 0.8), (10, 0.9)])
def test_one_queue_waits_as_in_m_m_c(nodes: int, busy: float) -> None:
    servers = 2 * nodes
    waits = ran(None, nodes=nodes, busy=busy).mean_wait
    wanted = erlang_c(servers, busy * servers) * SERVICE / (servers * (1 - busy))
    assert waits == pytest.approx(wanted, rel=0.12)


def test_random_choice_makes_each_node_a_queue_of_its_own() -> None:
    waits = ran(POLICIES["random"], workers=1, busy=0.7).mean_wait
    assert waits == pytest.approx(0.7 * SERVICE / (1 - 0.7), rel=0.1)


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_in_flight_is_rate_by_time(name: str) -> None:
    """Little's law."""
    answers = ran(POLICIES[name])
    in_flight = answers.in_flight_seconds / answers.seconds
    assert in_flight == pytest.approx(len(answers.latencies) / answers.seconds * answers.mean_latency, rel=0.02)


def test_policies_that_know_more_wait_less() -> None:
    waits = [ran(POLICIES[name]).mean_wait for name in ("random", "power of two", "least connections")]
    best = ran(None).mean_wait
    assert waits[0] > waits[1] > waits[2] >= best


def test_an_entrance_that_sees_all_requests_chooses_better() -> None:
    rate = 0.8 * 20 / SERVICE
    waits = [
        Cell(10, 2, exponential(SERVICE), LeastConnections, entrances=count).run(lambda _: rate, rate, 5, 60).mean_wait
        for count in (1, 8)
    ]
    assert waits[0] < waits[1] / 2


@pytest.mark.parametrize("queue_size", [3, math.inf])
def test_every_request_is_answered_or_refused_once(queue_size: float) -> None:
    """The load is above what the cell can do for half of the time; then nobody asks any more."""
    rate = 1.5 * 8 / SERVICE
    cell = Cell(4, 2, mixed(SERVICE), LeastConnections, queue_size=queue_size)
    answers = cell.run(lambda now: rate if now < 10 else 0.0, rate, 0, 100)
    assert answers.arrived == answers.answered + answers.refused
    assert len(answers.latencies) == answers.answered
    assert cell.in_flight == 0
    assert bool(answers.refused) == (queue_size == 3)


def test_service_times_have_the_mean_that_is_asked_for() -> None:
    chance = random.Random(5)
    for times in (exponential(SERVICE), spread(SERVICE, 0.25), mixed(SERVICE)):
        assert sum(times(chance) for _ in range(50_000)) / 50_000 == pytest.approx(SERVICE, rel=0.03)


def test_the_same_seed_gives_the_same_answers() -> None:
    assert ran(POLICIES["power of two"]) == ran(POLICIES["power of two"])


# Copies


def scaled(rule: Rule, start_seconds: float, high: float = 20.0) -> scaling.Scaled:
    rate = scaling.burst(4.0, high, 300.0, 900.0)
    times = spread(10 * SERVICE, 0.25)
    return scaling.run(times, rate, high, 1500.0, rule, start_seconds, workers=2, first=2, most=12)


def test_copies_follow_the_load_and_not_beyond_the_limit() -> None:
    done = scaled(Rule(busy=0.7), 2.0)
    assert 2 < done.mean_copies < done.most_copies <= 12
    assert done.answers.arrived - done.answers.answered < 100
    assert scaled(Rule(busy=0.7), 2.0, high=60.0).most_copies == 12


def test_copies_that_start_later_leave_more_waiting() -> None:
    early, late = (scaled(Rule(busy=0.7), seconds).answers.mean_latency for seconds in (2.0, 120.0))
    assert early < late


def test_a_steady_load_keeps_its_copies() -> None:
    """At the aim, within the tolerance: nothing changes."""
    rate = 0.65 * 4 * 2 / SERVICE
    done = scaling.run(spread(SERVICE, 0.25), lambda _: rate, rate, 600, Rule(busy=0.7), 2, workers=2, first=4, most=40)
    assert done.most_copies == 4
    assert done.mean_copies == pytest.approx(4)
    assert done.answers.quantile(0.99) < 4 * SERVICE


# Machines


def test_one_process_is_as_fast_as_its_cost_allows() -> None:
    engine = dataclasses.replace(TINY, batch=Cost(0, 0.1 * US))
    rate = Machine(engine, Layout(0, 8), 16).closed_loop(2000, 0.05, 0.2).rate
    assert rate <= 1 / engine.single.each
    assert rate == pytest.approx(1 / engine.single.each, rel=0.1)


def test_workers_are_the_limit_of_a_heavy_model() -> None:
    done = Machine(HEAVY, Layout(0, 4), 16).closed_loop(64, 2, 20)
    assert done.rate == pytest.approx(4 / HEAVY.batch.of(1), rel=0.05)
    assert done.batches == pytest.approx(len(done.latencies), abs=8)


@pytest.mark.parametrize("layout", [Layout(0, 2), Layout(3, 2), Layout(0, 1, servers=3)])
@pytest.mark.parametrize("workload", [TINY, HEAVY])
def test_clients_have_one_request_each(workload: Workload, layout: Layout) -> None:
    """Conservation, and Little's law of a closed loop: clients are rate by latency."""
    seconds = 1000 * workload.batch.of(1)
    done = Machine(workload, layout, 3).closed_loop(48, seconds / 4, seconds)
    assert 0 <= done.asked - done.answered <= 48
    assert done.rate * sum(done.latencies) / len(done.latencies) == pytest.approx(48, rel=0.1)


def test_cores_are_not_used_twice() -> None:
    """However many processes there are: the CPU time of all requests is no more than the cores have."""
    for layout in (Layout(0, 8), Layout(4, 8), Layout(0, 2, servers=4)):
        done = Machine(HEAVY, layout, 2).closed_loop(100, 1, 10)
        assert done.rate * HEAVY.batch.of(1) <= 2.02
        assert done.rate * HEAVY.batch.of(1) > 1.8


def test_batches_grow_with_what_waits_and_shrink_when_workers_are_divided() -> None:
    sizes = []
    for layout in (Layout(0, 4), Layout(0, 1, servers=4)):
        done = Machine(TINY, layout, 16).open_loop(60_000, 1000, 0.05, 0.2)
        sizes.append(len(done.latencies) / done.batches)
    alone = Machine(TINY, Layout(0, 4), 16).open_loop(100, 10, 0.1, 5)
    assert len(alone.latencies) == pytest.approx(alone.batches, rel=0.02)
    assert sizes[0] > sizes[1] > 1


def test_front_ends_raise_the_limit_of_a_tiny_model() -> None:
    rates = [Machine(TINY, Layout(count, 4), 16).closed_loop(256, 0.05, 0.1).rate for count in (0, 2)]
    assert rates[1] > 1.2 * rates[0]


def test_a_machine_gives_the_same_twice() -> None:
    first, second = (Machine(TINY, Layout(2, 2), 4, seed=7).open_loop(20_000, 64, 0.02, 0.1) for _ in range(2))
    assert first == second


# Costs and tables


def test_a_line_through_two_costs() -> None:
    cost = line([(1.0, 50 * US), (25.0, 14 * US)])
    assert cost.of(1) == pytest.approx(50 * US)
    assert cost.of(25) / 25 == pytest.approx(14 * US)
    assert line([(1.0, 10 * US), (8.0, 12 * US)]) == Cost(0.0, 11 * US)


def test_costs_that_are_not_measured_are_named() -> None:
    with pytest.raises(NotMeasured, match="make bench SCENARIO=front_ends"):
        workloads({})
    with pytest.raises(NotMeasured, match="fit"):
        workloads({"front_ends": measured()})
    with pytest.raises(NotMeasured, match="make bench SCENARIO=pipeline"):
        page_seconds({"pipeline": measured()})


def test_costs_come_from_the_measured_cells() -> None:
    cells = []
    for name in ("fit", "image", "resnet50"):
        for setup in SETUPS:
            for count, batch in ((1, 1.0), (64, 20.0)):
                values = {"main_us": 40.0 + 20 / batch, "front_end_us": 30.0, "worker_us": 999.0, "load_us": 5.0}
                values |= {"mean_batch": batch, "batch_ms": 0.02 + 0.001 * batch, "requests_per_second": 1000.0}
                case = f"{name} c={count}"
                cells.append(Measurement(server=OURS, configuration=str(setup), case=case, round=1, values=values))
    values = {"requests_per_second": 16.0}
    pages = measured(Measurement(server=OURS, case="c=16", round=1, values=values))
    workload = workloads({"front_ends": measured(*cells), "pipeline": pages})
    assert workload["ocr"].batch == Cost(0.0, MACHINE.cores / 16)
    found = workload["fit"]
    assert found.single.of(1) == pytest.approx(60 * US)
    assert found.single.of(20) / 20 == pytest.approx(41 * US)
    assert found.batch.of(20) == pytest.approx(40 * US)
    assert found.front_end == Cost(0.0, 30 * US)


def test_the_fewest_front_ends_that_are_nearly_the_best() -> None:
    def cell(count: int, rate: float, kind: str = SHARED) -> Measurement:
        values = {"requests_per_second": rate}
        return Measurement(server=kind, configuration=str(count), case="fit 8 cores", round=1, values=values)

    results = measured(cell(1, 50), cell(2, 99), cell(4, 100), cell(8, 400, DIVIDED))
    assert best_count(results, "fit", 8, SHARED) == (2, 99)
    text = Machines({}).report(results)
    assert "| 8 cores | 2 | " in text
    assert "| 8 cores | 50.0, – | 99.0, – | 100, – | 400, – |" in text


def test_a_cluster_s_tables_name_what_was_not_simulated() -> None:
    text = Cells({}).report(measured())
    assert "| random | – | – | – | – | – | – |" in text
    assert "| 100,000 machines | 1,000 × 100 | – |" in text


def test_a_made_up_cluster_is_what_its_routes_say() -> None:
    state, view, status = made_up(10, 20)
    assert {node: len(refs) for node, refs in state.placed.items()} == dict.fromkeys(view.nodes, COPIES_BY_NODE)
    assert all(len(route.nodes) == 3 for route in view.routes)
    assert {route.ref: list(route.nodes) for route in view.routes} == {
        one.ref: state.nodes_of(one.ref) for one in state.wanted
    }
    assert len(status.copies) == len(set(status.archives)) == COPIES_BY_NODE


def test_sizes_are_told_for_one_cluster_and_many_machines() -> None:
    cells = [
        Measurement(server="cluster", case="10 nodes", round=1, values={"snapshot": 9065.0, "haproxy_ms": 35.0}),
        Measurement(server="calls", case="calls", round=1, values={"calls_per_second": 2000.0}),
        Measurement(server="metrics", case="metrics", round=1, values={"series": 50.0, "series_of_model": 100.0}),
    ]
    text = Sizes().report(measured(*cells))
    assert "| snapshot, on the controller and on each node | 9.06 kB | – | – |" in text
    assert "| 1,000 machines | 2,000 | 1.00 | 650,000 | 43,333 | 7.5 GB |" in text
