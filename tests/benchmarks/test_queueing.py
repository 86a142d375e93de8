"""The simulation against closed forms, and the order in which it serves."""

import numpy as np
import pytest

from benchmarks.queueing import Station, erlang_c, mean_wait_md1, mean_wait_mmc, simulate


def test_erlang_c_of_one_server_is_its_load_and_of_two_known() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert mean_wait_mmc(0.5, 1.0, 1) == pytest.approx(1.0)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (2, 0.7), (4, 0.8)])
def test_exponential_service_waits_as_long_as_in_mmc(servers: int, load: float) -> None:
    rng = np.random.default_rng(1)
    jobs = 150_000
    arrivals = np.cumsum(rng.exponential(1 / (servers * load), jobs))
    service = rng.exponential(1.0, jobs)
    waits = simulate(arrivals, [service], [Station(servers)], servers) - arrivals - service
    assert waits.mean() == pytest.approx(mean_wait_mmc(servers * load, 1.0, servers), rel=0.08)


@pytest.mark.parametrize("load", [0.4, 0.8])
def test_fixed_service_waits_as_long_as_in_md1(load: float) -> None:
    rng = np.random.default_rng(2)
    jobs = 150_000
    arrivals = np.cumsum(rng.exponential(1 / load, jobs))
    waits = simulate(arrivals, [np.ones(jobs)], [Station(1)], 1) - arrivals - 1
    assert waits.mean() == pytest.approx(mean_wait_md1(load, 1.0), rel=0.06)


def test_stations_share_cores_and_a_serial_one_keeps_the_rest_waiting() -> None:
    arrivals, stations = np.zeros(4), [Station(2), Station(1)]
    done = simulate(arrivals, [np.full(4, 2.0), np.full(4, 1.0)], stations, 2)
    # Two are worked on; one goes on to the serial station, and the core of the other takes the third job.
    assert done.tolist() == [3.0, 4.0, 5.0, 7.0]
    apart = simulate(arrivals, [np.full(4, 2.0), np.full(4, 1.0)], [Station(2), Station(1, on_core=False)], 2)
    assert apart.tolist() == [3.0, 4.0, 5.0, 6.0]


def test_what_becomes_urgent_goes_before_what_waits_longer_and_is_done_once() -> None:
    arrivals = np.array([0.0, 0.1, 0.2, 0.3])
    urgent = np.array([0.0, 50.0, 50.0, 0.5])
    done = simulate(arrivals, [np.ones(4)], [Station(1)], 1, urgent)
    assert done.tolist() == [1.0, 3.0, 4.0, 2.0]
    behind = simulate(arrivals, [np.full(4, 0.01), np.ones(4)], [Station(1), Station(1)], 2, urgent)
    assert np.argsort(behind).tolist() == [0, 3, 1, 2], "at a later station as well"


def test_all_jobs_end_and_none_before_its_own_time() -> None:
    rng = np.random.default_rng(3)
    arrivals = np.sort(rng.uniform(0, 100, 5000))
    service = [rng.uniform(0, 0.1, 5000), rng.uniform(0, 0.02, 5000)]
    urgent = arrivals + rng.uniform(0, 5, 5000)
    done = simulate(arrivals, service, [Station(2), Station(1)], 2, urgent)
    assert np.all(done >= arrivals + service[0] + service[1] - 1e-9)
    work = (service[0] + service[1]).sum()
    assert done.max() >= work / 2
