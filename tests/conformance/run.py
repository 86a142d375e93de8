"""The run: every sample through this service and every reader, a bar while it goes on."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_render.workers import WorkerPool
from tests.conformance.compare import Row, compare
from tests.conformance.derived import derived_samples
from tests.conformance.ours import other_backends, render_sample
from tests.conformance.readers import READERS, Answer, Ask, Isolated
from tests.conformance.samples import Sample, corpus_samples, wheel_samples

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A row for each sample, how often each reader's process died, and the backends that rendered beside NumPy."""

    rows: list[Row]
    deaths: Mapping[str, int]
    backends: Sequence[str] = ()


def all_samples(folder: Path) -> list[Sample]:
    """Corpus, wheel, and derivatives written into ``folder``."""
    return [*corpus_samples(), *wheel_samples(), *derived_samples(folder)]


def run(progress: Progress, only: str = "") -> Run:
    """Compare every sample whose name contains ``only``."""
    with tempfile.TemporaryDirectory() as folder:
        samples = [sample for sample in all_samples(Path(folder)) if only in sample.name]
        return _compare_all(samples, progress)


def _compare_all(samples: Sequence[Sample], progress: Progress) -> Run:
    rows = []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(1))
        threads = stack.enter_context(ThreadPoolExecutor(len(READERS)))
        readers = {name: stack.enter_context(Isolated(name)) for name in READERS}
        others = other_backends()
        for done, sample in enumerate(samples):
            progress(done, len(samples))
            ours = render_sample(sample, pool, others)
            answers = {} if ours.ask is None else _ask_all(readers, ours.ask, threads)
            if ours.ask is not None and sample.twin is not None:
                twins = _ask_all(readers, replace(ours.ask, path=sample.twin), threads)
                answers |= {f"{name} of twin": _without(answer, answers) for name, answer in twins.items()}
            rows.append(compare(sample, ours, answers))
        progress(len(samples), len(samples))
        return Run(rows, {name: reader.deaths for name, reader in readers.items()}, [b.name for b in others])


def _ask_all(readers: Mapping[str, Isolated], ask: Ask, threads: ThreadPoolExecutor) -> dict[str, Answer]:
    waiting = {name: threads.submit(reader.ask, ask) for name, reader in readers.items()}
    return {name: answer.result() for name, answer in waiting.items()}


def _without(answer: Answer, others: Mapping[str, Answer]) -> Answer:
    """The stages that no other reader has answered; of a twin, its stored values prove nothing about a codec."""
    answered = {"stored"}.union(*others.values())
    return {stage: values for stage, values in answer.items() if stage not in answered}
