"""WADO-RS metadata (PS3.18 10.4.1.1.2): the DICOM JSON Model of instances, series and studies.

Every instance's text was made when its file was indexed. It is passed through, piece by piece, so that a series of any
length costs the memory of a piece. An answer whose making fails after it has begun is broken off: a list that merely
ended early would look whole, and slices would be missing from it.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dicomweb import PREFIX
from api.dicomweb.qido import DICOM_JSON, MEDIA_TYPES, SERIES_UID, SOP_INSTANCE_UID, STUDY_UID
from api.documents import CACHING, GZIP_LEVEL, gzip_accepted, not_modified, weak_etag
from api.negotiation import choose
from api.problems import RESPONSES
from api.service import service_of
from api.streaming import IS_HEAD, Streamed
from gpu_render import PIPELINE_VERSION, __version__
from gpu_render.archive import InstanceRecord
from gpu_render.reference import check_uid

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"], responses=RESPONSES)

PIECE_BYTES = 256 * 1024
"""What is sent at once. An answer of one piece, as of most series with gzip, is complete before its first byte goes."""

#: As the archive writes it. No text inside a value can look the same: its quotes would have backslashes.
_RELATIVE = b'"BulkDataURI":"bulkdata/'
_GZIP = 16 + zlib.MAX_WBITS
#: A piece takes a tenth of a second to make. The threads that look frames up stay free, though all series of a study
#: be asked for at once.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="metadata")


def pieces(
    records: Sequence[InstanceRecord], texts: Iterator[bytes], root: str, packed: bool
) -> Generator[bytes, None, None]:
    """The list of all ``texts``, with bulk data below ``root``. Raises ValueError where they are not one a record."""
    pack = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP) if packed else None
    piece, mark = bytearray(), b"["
    for record, text in zip(records, texts, strict=True):
        uri = f'"BulkDataURI":"{instance_path(root, record)}/bulkdata/'
        text = mark + addressed(text, record).replace(_RELATIVE, uri.encode())
        piece += pack.compress(text) if pack else text
        mark = b","
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    piece += pack.compress(b"]") + pack.flush() if pack else b"]"
    yield bytes(piece)


def addressed(text: bytes, record: InstanceRecord) -> bytes:
    """``text`` with the UIDs that the instance has in URLs. A file without one gets one by which it can be asked for,
    and a client learns it from here."""
    uids = (
        (SOP_INSTANCE_UID, record.sop_instance_uid),
        (STUDY_UID, record.study_instance_uid),
        (SERIES_UID, record.series_instance_uid),
    )
    if all(f'"{tag}":{{"vr":"UI","Value":["{uid}"]}}'.encode() in text for tag, uid in uids):
        return text
    found = orjson.loads(text) | {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids}
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS)


def instance_path(root: str, record: InstanceRecord) -> str:
    """An instance's path, from the root of the server."""
    uids = record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid
    return "{}{}/studies/{}/series/{}/instances/{}".format(root, PREFIX, *uids)


def etag_of(records: Sequence[InstanceRecord], root: str) -> str:
    """Over all that decides the answer, without reading any of it."""
    instances = (f"{record.sop_instance_uid} {record.version}".encode() for record in records)
    return weak_etag(f"{__version__} {PIPELINE_VERSION} {root}".encode(), *instances)


class InThreads:
    """Runs a blocking generator step by step in threads, never two steps at a time."""

    def __init__(self, steps: Generator[bytes, None, None]) -> None:
        self._steps = steps
        self._running: asyncio.Future[bytes | None] | None = None

    async def next(self) -> bytes | None:
        """What it yields next, None at its end. A step that is given up runs to its end before ``aclose`` returns."""
        self._running = asyncio.get_running_loop().run_in_executor(_THREADS, next, self._steps, None)
        return await asyncio.shield(self._running)

    async def aclose(self) -> None:
        """Let go of what the generator holds."""
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        await asyncio.to_thread(self._steps.close)


async def _answer(request: Request, study: str, series: str | None = None, instance: str | None = None) -> Response:
    archive = service_of(request).archive
    choose(request, MEDIA_TYPES)
    uids = (
        check_uid(study, "Study Instance UID"),
        None if series is None else check_uid(series, "Series Instance UID"),
        None if instance is None else check_uid(instance, "SOP Instance UID"),
    )
    records = await asyncio.to_thread(archive.instances, *uids)
    root = request.scope.get("root_path", "")
    tag = await asyncio.to_thread(etag_of, records, root)
    if (same := not_modified(request, tag)) is not None:
        return same
    packed = gzip_accepted(request)
    headers = {**CACHING, "ETag": tag, **({"Content-Encoding": "gzip"} if packed else {})}
    made = InThreads(pieces(records, archive.metadata(records), root, packed))
    if request.scope.get(IS_HEAD):
        return Streamed(_parts(made), headers, DICOM_JSON)
    try:
        first, second = await made.next(), await made.next()
    except BaseException:
        await made.aclose()
        raise
    if first is not None and second is None:
        await made.aclose()
        return Response(first, headers=headers, media_type=DICOM_JSON)
    return Streamed(_parts(made, first, second), headers, DICOM_JSON)


async def _parts(made: InThreads, *begun: bytes | None) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(made):
        for part in begun:
            if part is not None:
                yield part
        while (part := await made.next()) is not None:
            yield part


# --- routes -------------------------------------------------------------------------------------------------

_EXAMPLE = [
    {
        "00080018": {"vr": "UI", "Value": ["1.2.3.1.1"]},
        "00280010": {"vr": "US", "Value": [512]},
        "7FE00010": {
            "vr": "OW",
            "BulkDataURI": "/dicomweb/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.1/bulkdata/7FE00010",
        },
    }
]
_ROUTE: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"content": {DICOM_JSON: {"example": _EXAMPLE}}},
        304: {"description": "The ETag in If-None-Match still holds."},
        404: {"description": "No such study, series or instance."},
    },
}


@router.get("/studies/{study}/metadata", summary="Metadata of a study", **_ROUTE)
async def study_metadata(request: Request, study: str) -> Response:
    """All attributes of all instances of a study, but Pixel Data."""
    return await _answer(request, study)


@router.get("/studies/{study}/series/{series}/metadata", summary="Metadata of a series", **_ROUTE)
async def series_metadata(request: Request, study: str, series: str) -> Response:
    """All attributes of all instances of a series, by Instance Number, but Pixel Data."""
    return await _answer(request, study, series)


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/metadata", summary="Metadata of an instance", **_ROUTE
)
async def instance_metadata(request: Request, study: str, series: str, instance: str) -> Response:
    """All attributes of an instance, but Pixel Data."""
    return await _answer(request, study, series, instance)
