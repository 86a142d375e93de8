"""``/api/.../series/{series}/frames``: many frames of a series as raw arrays, in one answer.

The answer is a sequence of records. Each begins with the length of its header [byte], a little-endian unsigned 32-bit
integer, and the header, a JSON object with a member ``kind``:

- ``frame``: ``nbytes`` bytes of samples follow, little-endian and in C order, of ``shape`` and ``dtype``;
- ``problem``: this frame cannot be had; the problem document that its own route would answer stands in the header;
- ``end``: the last record. An answer without it was cut off.
"""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.arrays import OCTETS, VARY_CODED, window_text
from api.catalog import frame_path
from api.encoding import FILTER, encoder_of
from api.native import parse_view
from api.negotiation import choose
from api.problems import RESPONSES, explained
from api.service import ClientGone, Service, priority_of, service_of, while_connected
from api.streaming import IS_HEAD, Part, Streamed
from gpu_render import PIPELINE_VERSION
from gpu_render.ahead import in_order
from gpu_render.archive import FrameRecord
from gpu_render.errors import BadRequest, NotFound, Overloaded, RenderError
from gpu_render.frame import PixelLayout, RenderedFrame
from gpu_render.order import Order
from gpu_render.priority import Priority
from gpu_render.reference import FrameRef, check_uid
from gpu_render.view import Stage, View
from gpu_render.wire import can_be_filtered

T = TypeVar("T")

router = APIRouter(prefix="/api", tags=["raw arrays"], responses=RESPONSES)

FRAMES = "application/vnd.gpu-render.frames"
MEDIA_TYPES = (FRAMES, OCTETS)

PATIENCE_S = 30.0
"""How long a frame in mid-answer is asked for again while the queue is full."""


RUN_BYTES = 2 << 20
"""Frames that only have to be read are, so much at a time."""

_RANGE = re.compile(r"([0-9]{1,9})(-([0-9]{1,9})?)?")

Positions = Sequence[int]
Outcome = RenderedFrame | RenderError
Outcomes = AsyncGenerator[tuple[Positions, list[Outcome] | RenderError], None]
Parts = AsyncGenerator[Part, None]


def parse_positions(text: str | None, count: int) -> Positions:
    """``1-10,15,30-20,100-`` to positions in the order of the manifest, from 1; all ``count`` where nothing is asked.

    Raises BadRequest for anything else and for a position asked for twice, NotFound for one beyond the series.
    """
    if not text:
        return range(1, count + 1)
    found: list[int] = []
    for item in text.split(","):
        run = _run(item.strip(), count)
        if len(found) + len(run) > count:  # before a list of ranges grows beyond all bounds
            raise BadRequest("a position is asked for twice")
        found += run
    if len(set(found)) < len(found):
        raise BadRequest("a position is asked for twice")
    return found


def _run(item: str, count: int) -> range:
    match = _RANGE.fullmatch(item)
    if match is None or int(match[1]) < 1 or match[3] == "0":
        raise BadRequest("frames is a list of positions from 1 and ranges of them, as in 1-10,15,30-20,100-")
    first = int(match[1])
    last = first if match[2] is None else int(match[3]) if match[3] else count
    if max(first, last) > count:
        raise NotFound(f"no position {max(first, last)}: this series has {count} frame{'' if count == 1 else 's'}")
    return range(first, last + 1) if first <= last else range(first, last - 1, -1)


def most_bytes(layout: PixelLayout, view: View) -> int:
    """Most that a frame's samples or picture take [byte]: what it counts while it is ahead of its turn."""
    stored = math.prod(layout.shape) * layout.dtype.itemsize
    if view.stage is Stage.STORED and view.viewport is None:
        return stored
    width, height = view.viewport or (layout.columns, layout.rows)
    return max(stored, width * height * (4 if view.stage is Stage.MODALITY else 3))


@dataclass(frozen=True, slots=True)
class Batch:
    """One request for frames of a series. ``runs`` of positions, in the order asked for, are read together."""

    service: Service
    order: Order
    runs: Sequence[Positions]
    view: View
    priority: Priority
    filtered: bool = False

    def outcomes(self) -> Outcomes:
        """Each run with its pictures, or why there is none; some are made ahead."""
        return in_order(self.runs, self._render, self._size, self.service.room)

    def _frame(self, position: int) -> FrameRecord:
        return self.order.frames[position - 1]

    def _size(self, run: Positions) -> int:
        return sum(most_bytes(self._frame(position).layout, self.view) for position in run)

    async def _render(self, run: Positions) -> list[Outcome]:
        """A person waits for the first frame; whoever waits for any single frame comes before the rest."""
        if run is self.runs[0]:
            return await self._render_at(run, self.priority)
        return await patiently(lambda: self._render_at(run, max(self.priority, Priority.THUMBNAIL)))

    async def _render_at(self, run: Positions, priority: Priority) -> list[Outcome]:
        """Raises Overloaded where the queue is full; any other error stands in its frame's place."""
        renderer, refs = self.service.renderer, [self._frame(position).ref for position in run]
        plain = renderer.is_plain(self._frame(run[0]), self.view)
        found: Sequence[Outcome | None] = await renderer.read(refs, priority) if plain else [None] * len(refs)
        return [
            one if one is not None else await self._picture(ref, priority) for one, ref in zip(found, refs, strict=True)
        ]

    async def _picture(self, ref: FrameRef, priority: Priority) -> Outcome:
        try:
            return await self.service.renderer.render(ref, self.view, priority)
        except Overloaded:
            raise
        except RenderError as error:
            return error

    async def parts(self, first: tuple[Positions, list[Outcome] | RenderError] | None, rest: Outcomes) -> Parts:
        """The answer's body."""
        problems, step, first = 0, first, None
        async with contextlib.aclosing(rest):
            while step is not None:
                run, results = step
                if isinstance(results, RenderError):
                    results = [results] * len(run)
                for position, result in zip(run, results, strict=True):
                    problems += isinstance(result, RenderError)
                    for part in self._record(position, result):
                        yield part
                del results, result, part  # what was sent is not kept while the next are waited for
                step = None
                step = await anext(rest, None)
        yield head({"kind": "end", "frames": sum(map(len, self.runs)), "problems": problems})

    def _record(self, position: int, result: Outcome) -> Iterator[Part]:
        ref = self._frame(position).ref
        about: dict[str, object] = {
            "position": position,
            "sop_instance_uid": ref.sop_instance_uid,
            "frame_number": ref.frame_number,
        }
        if isinstance(result, RenderError):
            document = explained(result) | {"instance": frame_path(ref)}
            yield head({"kind": "problem", **about, "problem": document})
            return
        pixels = np.ascontiguousarray(result.pixels)
        filtered = self.filtered and can_be_filtered(pixels)
        yield head(
            {
                "kind": "frame",
                **about,
                **({"filter": FILTER} if filtered else {}),
                "shape": pixels.shape,
                "dtype": pixels.dtype.str,
                "stage": result.stage,
                "window": None if result.window is None else window_text(result.window),
                "decoder": result.decoder,
                "backend": result.backend,
                "version": f"{PIPELINE_VERSION}-{result.version}",
                "nbytes": pixels.nbytes,
            }
        )
        yield pixels.data if filtered else pixels.reshape(-1).view(np.uint8).data


def head(record: dict[str, object]) -> bytes:
    """A record's header with its length before it."""
    text = orjson.dumps(record)
    return len(text).to_bytes(4, "little") + text


async def patiently(render: Callable[[], Awaitable[T]]) -> T:
    """``render()``, again and again for a while where the queue is full: an answer that has begun is to go on."""
    deadline, pause_s = time.monotonic() + PATIENCE_S, 0.02
    while True:
        try:
            return await render()
        except Overloaded:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 1.0)


def _runs(service: Service, uids: tuple[str, str], frames: str | None, view: View) -> tuple[Order, Sequence[Positions]]:
    """The series' order, and the positions asked for in runs: of some frames where they are only to be read."""
    order = service.orders.of(*uids)
    runs: list[list[int]] = []
    nbytes = 0
    for position in parse_positions(frames, len(order.frames)):
        frame = order.frames[position - 1]
        plain = service.renderer.is_plain(frame, view)
        size = most_bytes(frame.layout, view)
        if len(runs) > 1 and plain and 0 < nbytes <= RUN_BYTES - size:
            runs[-1].append(position)
            nbytes += size
        else:  # the first alone: somebody waits for it
            runs.append([position])
            nbytes = size if plain else 0
    return order, runs


@router.get(
    "/studies/{study}/series/{series}/frames",
    summary="Many frames as raw arrays, in one answer",
    response_class=Response,
    responses={
        200: {
            "description": "Records, one a frame in the order asked for, then one that says that all were sent.",
            "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES},
        },
        404: {"description": "No such study or series, or a position beyond its frames."},
    },
)
async def get_frames(
    request: Request,
    study: str,
    series: str,
    frames: Annotated[
        str | None,
        Query(
            description="positions in the manifest's order, from 1, and ranges of them", examples=["1-10,15,30-20,100-"]
        ),
    ] = None,
    stage: Annotated[str | None, Query(description="as for one frame; so are all below")] = None,
    window: Annotated[str | None, Query(examples=["40,400"])] = None,
    voi: Annotated[str | None, Query(examples=["0"])] = None,
    region: Annotated[str | None, Query(examples=["0,0,256,256"])] = None,
    viewport: Annotated[str | None, Query(examples=["256,256"])] = None,
    invert: Annotated[str | None, Query(examples=["false"])] = None,
) -> Response:
    """Frames of a series one after the other, while the next ones are decoded. docs/api.md describes the records.

    A frame that cannot be shown is a record that says why, and ends nothing.
    """
    service = service_of(request)
    media_type = choose(request, MEDIA_TYPES)
    uids = check_uid(study, "Study Instance UID"), check_uid(series, "Series Instance UID")
    view = parse_view(stage, window, voi, region, viewport, invert, service.settings.max_viewport)
    order, runs = await asyncio.to_thread(_runs, service, uids, frames, view)
    encoder, headers = encoder_of(request), {"Cache-Control": "private, no-store"}
    form = encoder.stream_form(request, FRAMES)
    batch = Batch(service, order, runs, view, priority_of(request), form is not None and form.filtered)
    outcomes = batch.outcomes()
    try:
        first = None if IS_HEAD in request.scope else await while_connected(request, anext(outcomes, None))
    except ClientGone:
        await outcomes.aclose()
        return Response(status_code=499)
    if first is not None and isinstance(first[1], Overloaded):
        await outcomes.aclose()
        raise first[1]  # nothing was begun: the client is told when to come again
    parts = batch.parts(first, outcomes)
    if form is not None:
        parts = encoder.stream(parts, form, max(batch.priority, Priority.THUMBNAIL))
        headers |= {"Content-Encoding": form.coding, "Vary": VARY_CODED}
    return Streamed(parts, headers, media_type)
