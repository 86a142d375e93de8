"""A small discrete-event simulation: jobs that go through stations, some of which share the cores of a machine.

Nothing is preempted. Each station serves in the order of arrival, urgent jobs first; a core that is free goes to the
last station of the line that has work, so that what is nearly done is done first.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Station:
    """``servers``: most jobs at a time; ``on_core``: each of them holds a core of the machine."""

    servers: int
    on_core: bool = True


def simulate(
    arrivals: Seconds,
    service: Sequence[Seconds],
    stations: Sequence[Station],
    cores: int,
    urgent: Seconds | None = None,
) -> Seconds:
    """When each job has left the last station [s]. ``arrivals`` [s] rise; ``service`` is the time of each job [s] at
    each station, one after the other. From the time ``urgent`` [s] on a job goes before all that are not urgent,
    wherever it waits; without these times all jobs are alike."""
    return _Simulation(arrivals, service, stations, cores, arrivals if urgent is None else urgent).run()


class _Simulation:
    """Each station has a line of urgent jobs and one of others. A job that becomes urgent while it waits stands
    in both then: what is taken from a line counts only if the job still waits there."""

    def __init__(
        self,
        arrivals: Seconds,
        service: Sequence[Seconds],
        stations: Sequence[Station],
        cores: int,
        urgent: Seconds,
    ) -> None:
        self._arrivals = [*arrivals.tolist(), math.inf]
        self._urgent = urgent.tolist()
        late = np.flatnonzero(urgent > arrivals)
        late = late[np.argsort(urgent[late], kind="stable")]
        self._promotions = [*zip(urgent[late].tolist(), late.tolist(), strict=True), (math.inf, -1)]
        self._service = [one.tolist() for one in service]
        self._stations = stations
        self._free = cores
        self._lines: list[tuple[deque[int], deque[int]]] = [(deque(), deque()) for _ in stations]
        self._busy = [0] * len(stations)
        self._waits_at = [_NOWHERE] * len(arrivals)  # where each job waits
        self._ended: list[tuple[float, int, int]] = []
        self.done = np.zeros(len(arrivals))

    def run(self) -> Seconds:
        """To the end of the last job."""
        arrived = promoted = 0
        while True:
            arrival, (promotion, job) = self._arrivals[arrived], self._promotions[promoted]
            end = self._ended[0][0] if self._ended else math.inf
            now = min(end, arrival, promotion)
            if now == math.inf:
                return self.done
            if now == end:
                self._end()
            elif now == arrival:
                self._enter(arrived, 0, now)
                arrived += 1
            else:
                promoted += 1
                if self._waits_at[job] != _NOWHERE:
                    self._lines[self._waits_at[job]][0].append(job)
            self._begin(now)

    def _enter(self, job: int, station: int, now: float) -> None:
        self._waits_at[job] = station
        self._lines[station][self._urgent[job] > now].append(job)

    def _end(self) -> None:
        now, station, job = heapq.heappop(self._ended)
        self._busy[station] -= 1
        self._free += self._stations[station].on_core
        if station + 1 < len(self._stations):
            self._enter(job, station + 1, now)
        else:
            self.done[job] = now

    def _begin(self, now: float) -> None:
        for at in range(len(self._stations) - 1, -1, -1):
            station = self._stations[at]
            while self._busy[at] < station.servers and (self._free or not station.on_core):
                job = self._take(at)
                if job is None:
                    break
                self._busy[at] += 1
                self._free -= station.on_core
                heapq.heappush(self._ended, (now + self._service[at][job], at, job))

    def _take(self, station: int) -> int | None:
        """Who is served next, which leaves the line; None where nobody waits."""
        for line in self._lines[station]:
            while line:
                job = line.popleft()
                if self._waits_at[job] == station:
                    self._waits_at[job] = _NOWHERE
                    return job
        return None


def erlang_c(servers: int, load: float) -> float:
    """Probability that a job of M/M/c waits; ``load`` = arrival rate x service time, below ``servers``."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


def mean_wait_mmc(rate: float, service_s: float, servers: int) -> float:
    """Mean time in the queue of M/M/c [s]."""
    load = rate * service_s
    return erlang_c(servers, load) * service_s / (servers - load)


def mean_wait_md1(rate: float, service_s: float) -> float:
    """Mean time in the queue of M/D/1 [s], by Pollaczek and Khinchine."""
    load = rate * service_s
    return load * service_s / (2 * (1 - load))
