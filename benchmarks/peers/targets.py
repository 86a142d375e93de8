"""What was promised of the service beside its peers, and how far it is there: ratios of medians of one run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.comparing import compare
from benchmarks.peers.contest import COMPARED_CLIENTS
from benchmarks.peers.figures import CLIENTS, FIRST, P50, P99, REQUESTS, label, select
from benchmarks.peers.routes import (
    COMPRESSED,
    FRAMES,
    OLD,
    ORTHANC,
    OURS,
    PICTURE,
    RULER,
    SAMPLES,
    STORED,
    UNCACHED,
    UNCOMPRESSED,
)
from benchmarks.record import Measurement, Ratio

Found = Sequence[Measurement]


@dataclass(frozen=True, slots=True)
class Target:
    """``ours`` has to be ``factor`` times as fast as the fastest of ``theirs`` (who, route), in one transfer syntax.

    Warm: requests a second of eight clients. Cold: slices a second of one, from the median time to a first touch.
    """

    kind: str
    syntax: str
    cold: bool
    ours: tuple[str, str]
    theirs: tuple[tuple[str, str], ...]
    factor: float
    note: str = ""

    @property
    def name(self) -> str:
        state = "first touch" if self.cold else f"{COMPARED_CLIENTS} clients"
        return ", ".join(filter(None, (self.kind, self.ours[1], state, self.note)))


_RAW, _JPEG = "raw array", "/rendered, JPEG"
_NEW, _NEW_JPEG = f"{_RAW}, new window", f"{_JPEG}, new window"
_JPEGS = ((ORTHANC, "/rendered, JPEG"), (ORTHANC, "WADO-RS /rendered, JPEG"))
_BROWSER = (*_JPEGS, (ORTHANC, "/rendered, PNG"), (ORTHANC, "/preview, JPEG"))
_ANY = ((ORTHANC, ""),)
_COLD_PICTURES = {UNCOMPRESSED: 8.0, "RLE": 8.0, "JPEG lossless": 2.5, "JPEG-LS": 2.5, "JPEG 2000": 1.2}
_WARM_PICTURES = {UNCOMPRESSED: 12.0, "JPEG 2000": 60.0}


def _pictures() -> Iterable[Target]:
    """Beside the fastest of the pictures that browsers show, and beside the fastest one at all. Warm twice: with a
    new window each time, so that each picture is made, and asked for again, when it was kept."""
    for cold, factors, route in (
        (True, _COLD_PICTURES, _RAW),
        (False, _WARM_PICTURES, _NEW),
        (False, _WARM_PICTURES, _RAW),
    ):
        for syntax, factor in factors.items():
            ours = (OURS, route)
            yield Target(PICTURE, syntax, cold, ours, _BROWSER, factor, "JPEG or PNG")
            yield Target(PICTURE, syntax, cold, ours, _ANY, factor, "any form")


TARGETS = (
    Target(SAMPLES, UNCOMPRESSED, False, (UNCACHED, _RAW), ((RULER, ""),), 0.7),
    Target(SAMPLES, UNCOMPRESSED, False, (OURS, _RAW), ((RULER, ""),), 0.7),
    Target(SAMPLES, UNCOMPRESSED, False, (UNCACHED, _RAW), ((ORTHANC, "/numpy"),), 1.2),
    Target(SAMPLES, UNCOMPRESSED, False, (OURS, _RAW), ((ORTHANC, "/numpy"),), 1.5, "cached"),
    Target(SAMPLES, UNCOMPRESSED, False, (OURS, _RAW), ((OLD, "JSON list"),), 100),
    Target(STORED, UNCOMPRESSED, False, (OURS, "frame"), ((ORTHANC, "/frames/0/raw"),), 0.9),
    Target(STORED, "JPEG 2000", False, (OURS, "frame"), ((ORTHANC, "/frames/0/raw"),), 0.9),
    *(
        Target(FRAMES, one, cold, (OURS, "frames"), _ANY, 3)
        for cold in (False, True)
        for one in (UNCOMPRESSED, *COMPRESSED)
    ),
    *_pictures(),
    *(Target(PICTURE, UNCOMPRESSED, False, (OURS, route), ((OLD, "PNG in base64"),), 30) for route in (_NEW, _RAW)),
    *(
        Target(PICTURE, one, cold, (OURS, _JPEG if cold else _NEW_JPEG), _JPEGS, 2)
        for cold in (False, True)
        for one in (UNCOMPRESSED, "JPEG 2000")
    ),
    *(Target(SAMPLES, one, True, (OURS, _RAW), ((RULER, ""),), 0.85, "codec alone") for one in COMPRESSED),
)


def ratios(found: Found) -> tuple[Ratio, ...]:
    """Each target whose both sides were measured, and what else was promised of the service by itself."""
    beside = [one for target in TARGETS if (one := _beside(found, target)) is not None]
    return (*beside, *_as_uncompressed(found), *_tail(found), *_crowd(found))


def _beside(found: Found, target: Target) -> Ratio | None:
    name, clients = (FIRST, 1) if target.cold else (REQUESTS, COMPARED_CLIENTS)
    ours = select(found, name, target.syntax, target.kind, *target.ours, clients=clients)
    theirs = [
        one
        for who, route in target.theirs
        for one in select(found, name, target.syntax, target.kind, who, route, clients)
    ]
    ours = [one for one in ours if one.who == target.ours[0]]
    if not ours or not theirs:
        return None
    fastest = max(theirs, key=lambda one: _speed(one, one.summary.median))
    return _ratio(target.name, target.syntax, ours[0], fastest, target.factor)


def _ratio(name: str, syntax: str, above: Measurement, below: Measurement, target: float) -> Ratio:
    samples = [[_speed(one, value) for value in one.samples] for one in (above, below)]
    return compare(name, (label(above), samples[0]), (label(below), samples[1]), group=syntax, target=target)


def _speed(one: Measurement, value: float) -> float:
    """Answers a second."""
    return value if one.better == "higher" else 1000 / value


def _as_uncompressed(found: Found) -> Iterable[Ratio]:
    """A decoded frame in the cache is answered like one that was never compressed."""
    for plain in select(found, REQUESTS, UNCOMPRESSED, SAMPLES, OURS, _RAW, COMPARED_CLIENTS)[:1]:
        for syntax in COMPRESSED:
            for one in select(found, REQUESTS, syntax, SAMPLES, OURS, _RAW, COMPARED_CLIENTS):
                yield _ratio("16-bit samples from the cache, as uncompressed", syntax, one, plain, 0.9)


def _tail(found: Found) -> Iterable[Ratio]:
    for kind in (SAMPLES, PICTURE):
        tails = select(found, P99, UNCOMPRESSED, kind, OURS, _RAW, COMPARED_CLIENTS)
        medians = select(found, P50, UNCOMPRESSED, kind, OURS, _RAW, COMPARED_CLIENTS)
        for tail, median in zip(tails, medians, strict=True):
            name = f"{kind}, raw array, 99th over 50th percentile, {COMPARED_CLIENTS} clients"
            above, below = (label(tail), tail.samples), (label(median), median.samples)
            yield compare(name, above, below, group=UNCOMPRESSED, better="lower", target=5)


def _crowd(found: Found) -> Iterable[Ratio]:
    """With the most clients, beside the number with which it is fastest."""
    for kind in (SAMPLES, PICTURE):
        ours = select(found, REQUESTS, UNCOMPRESSED, kind, OURS, _RAW)
        if len(ours) > 1:
            most = max(ours, key=lambda one: one.parameters[CLIENTS])
            best = max((one for one in ours if one is not most), key=lambda one: one.summary.median)
            name = f"{kind}, {most.parameters[CLIENTS]} clients beside {best.parameters[CLIENTS]}"
            yield _ratio(name, UNCOMPRESSED, most, best, 0.8)
