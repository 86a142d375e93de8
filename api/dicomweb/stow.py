"""STOW-RS: ``POST /dicomweb/studies[/{study}]`` (PS3.18 10.5, annex I)."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dicomweb import PREFIX
from api.dicomweb.qido import base_url
from api.dicomweb.uploads import PartEnd, PartHead, boundary_of, events
from api.negotiation import choose
from api.problems import RESPONSES
from api.service import ClientGone, service_of
from gpu_render.archive.store import FailureReason, Incoming, Outcome, Store
from gpu_render.errors import Forbidden, Overloaded, RenderError, StorageFull, TooLarge, TooSlow
from gpu_render.reference import check_uid
from gpu_render.settings import Settings

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"], responses=RESPONSES)

ANSWERS = ("application/dicom+json", "application/json")
MAX_UPLOADS = 64
"""Requests that may store at the same time; the next one is answered 503."""
WRITE_BYTES = 1 << 20
"""What is received is written in steps of this size."""
AHEAD = 4
"""Files of one request that may be on their way into the archive while the next one is received."""

DicomJson = dict[str, dict[str, Any]]


class Reception:
    """The files of one request, from the first byte of each to what became of it."""

    def __init__(self, store: Store, study_uid: str | None, max_instances: int) -> None:
        self._store = store
        self._study_uid = study_uid
        self._max_instances = max_instances
        self._began = 0
        self._incoming: Incoming | None = None
        self._failure: FailureReason | None = None
        self._waiting: list[memoryview] = []
        self._waiting_bytes = 0
        self._last: Future[Any] | None = None
        self._keeping: deque[Future[Outcome]] = deque()
        self._outcomes: list[Outcome] = []

    async def begin(self) -> None:
        """A file begins. Raises TooLarge for one too many."""
        self._began += 1
        if self._began > self._max_instances:
            raise TooLarge(f"more than {self._max_instances} instances in one request")
        self._failure = None
        with self._noting_failure():
            self._incoming = await self._run(self._store.receive)

    async def data(self, data: memoryview) -> None:
        """More of it. Where it cannot be written any more, the rest of it is passed over."""
        if self._failure is not None:
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= WRITE_BYTES:
            await self._write()

    async def end(self) -> None:
        """It is complete: it goes into the archive while the next one comes."""
        await self._write()
        while len(self._keeping) >= AHEAD or (self._failure is not None and self._keeping):
            await self._settle_one()
        incoming, self._incoming = self._incoming, None
        if self._failure is not None or incoming is None:
            self._outcomes.append(Outcome(self._failure or FailureReason.PROCESSING))
            return
        self._keeping.append(self._store.threads.submit(self._store.keep, incoming, self._study_uid))

    def abandon(self) -> None:
        """Forget the file that is not complete, if there is one. What is complete stays."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None and self._last is not None:
            # A thread may still be writing to it.
            self._last.add_done_callback(lambda _: incoming.discard())

    async def outcomes(self) -> list[Outcome]:
        """What became of all that were complete, in their order."""
        while self._keeping:
            await self._settle_one()
        return self._outcomes

    async def _settle_one(self) -> None:
        future = self._keeping.popleft()
        self._outcomes.append(await asyncio.wrap_future(future))

    async def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        incoming = self._incoming
        if incoming is None or not waiting:
            return

        def write() -> None:
            for data in waiting:
                incoming.write(data)

        with self._noting_failure():
            await self._run(write)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Of this file alone: others may still be stored."""
        try:
            yield
        except StorageFull:
            self._failure = FailureReason.FULL
        except TooLarge:
            self._failure = FailureReason.TOO_LARGE
        except OSError:
            self._failure = FailureReason.PROCESSING
        if self._failure is not None:
            self.abandon()

    async def _run(self, work: Callable[[], Any]) -> Any:
        self._last = self._store.threads.submit(work)
        return await asyncio.wrap_future(self._last)


@router.post("/studies", summary="Store instances", response_class=Response)
async def store_instances(request: Request) -> Response:
    """Instances of any studies: PS3.10 files as parts of ``multipart/related; type="application/dicom"``, or one as
    ``application/dicom``."""
    return await _store(request, None)


@router.post("/studies/{study}", summary="Store instances of one study", response_class=Response)
async def store_study_instances(request: Request, study: str) -> Response:
    """The same; an instance of another study is refused."""
    return await _store(request, check_uid(study))


async def _store(request: Request, study_uid: str | None) -> Response:
    service = service_of(request)
    media_type = choose(request, ANSWERS)
    store = service.store
    if store is None:
        raise Forbidden("nothing can be stored here: GPU_RENDER_STORE_PATH names no folder")
    boundary = boundary_of(request, service.settings.max_store_bytes)
    reception = Reception(store, study_uid, service.settings.max_store_instances)
    broken = None
    try:
        with _counted(store):
            await _take(request, boundary, reception, service.settings)
    except ClientGone:
        return Response(status_code=499)
    except RenderError as error:
        broken = error
    finally:
        reception.abandon()
    outcomes = await reception.outcomes()
    if broken is not None:
        if not any(outcome.failure is None for outcome in outcomes):
            raise broken
        outcomes.append(Outcome(_reason(broken)))
    headers = {"Connection": "close"} if isinstance(broken, TooSlow) else {}
    return Response(orjson.dumps(module(request, outcomes)), status_of(outcomes), headers, media_type)


async def _take(request: Request, boundary: bytes | None, reception: Reception, settings: Settings) -> None:
    async for event in events(request, boundary, settings.max_store_bytes):
        if isinstance(event, PartHead):
            await reception.begin()
        elif isinstance(event, PartEnd):
            await reception.end()
        else:
            await reception.data(event)


@contextlib.contextmanager
def _counted(store: Store) -> Iterator[None]:
    """Raises Overloaded where MAX_UPLOADS requests store already."""
    if store.uploads >= MAX_UPLOADS:
        raise Overloaded(f"{MAX_UPLOADS} requests are storing already", retry_after_s=5)
    store.uploads += 1
    try:
        yield
    finally:
        store.uploads -= 1


def _reason(error: RenderError) -> FailureReason:
    """What the rest of a request failed for, after some of it was stored."""
    if isinstance(error, TooLarge):
        return FailureReason.TOO_LARGE
    return FailureReason.PROCESSING if isinstance(error, TooSlow) else FailureReason.NOT_UNDERSTOOD


def status_of(outcomes: Sequence[Outcome]) -> int:
    """PS3.18 table 10.5.3-1."""
    if all(outcome.failure is None and outcome.warning is None for outcome in outcomes):
        return 200
    if any(outcome.failure is None for outcome in outcomes):
        return 202
    reasons = {outcome.failure for outcome in outcomes}
    if FailureReason.FULL in reasons:
        return 507
    return 413 if reasons == {FailureReason.TOO_LARGE} else 409


# --- the answer ---------------------------------------------------------------------------------------------


def module(request: Request, outcomes: Sequence[Outcome]) -> DicomJson:
    """The Store Instances Response Module (PS3.18 table I.1-1) in the DICOM JSON Model."""
    held = [outcome for outcome in outcomes if outcome.failure is None]
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    studies = {outcome.study_uid for outcome in held}
    url = study_url(request, studies.pop()) if len(studies) == 1 else None
    sequences = {
        "00081198": [
            _reference(outcome) | _us("00081197", outcome.failure) for outcome in failed if _is_named(outcome)
        ],
        "00081199": [_held(request, outcome) for outcome in held],
        "0008119A": [_us("00081197", outcome.failure) for outcome in failed if not _is_named(outcome)],
    }
    return {
        **_element("00081190", "UR", url),
        **{tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items},
    }


def study_url(request: Request, study_uid: str) -> str:
    """Where a study can be retrieved."""
    return f"{base_url(request)}/studies/{study_uid}"


def _is_named(outcome: Outcome) -> bool:
    """Whether it is known which instance it was."""
    return bool(outcome.sop_instance_uid)


def _held(request: Request, outcome: Outcome) -> DicomJson:
    url = f"{study_url(request, outcome.study_uid)}/series/{outcome.series_uid}/instances/{outcome.sop_instance_uid}"
    warning = {} if outcome.warning is None else _us("00081196", outcome.warning)
    return _reference(outcome) | _element("00081190", "UR", url) | warning


def _reference(outcome: Outcome) -> DicomJson:
    """SOP Instance Reference Macro (PS3.3 table 10-11)."""
    return {
        **_element("00081150", "UI", outcome.sop_class_uid),
        **_element("00081155", "UI", outcome.sop_instance_uid),
    }


def _us(tag: str, value: int | None) -> DicomJson:
    return _element(tag, "US", None if value is None else int(value))


def _element(tag: str, vr: str, value: str | int | None) -> DicomJson:
    return {tag: {"vr": vr, "Value": [value]} if value else {"vr": vr}}
