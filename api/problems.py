"""Errors as ``application/problem+json`` (RFC 9457), from one table of status codes."""

import logging
import re
import sys
import traceback
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_render import errors
from gpu_render.reference import check_uid
from kernels import BackendUnavailable

log = logging.getLogger("gpu_render.api")

#: Most special class first: the first that fits decides.
STATUS: tuple[tuple[type[errors.RenderError], int, str], ...] = (
    (errors.InvalidUid, 400, "Malformed UID"),
    (errors.InvalidFrameNumber, 400, "Not a frame number"),
    (errors.InvalidWindow, 400, "Not a window"),
    (errors.InvalidRegion, 400, "Not a region of this image"),
    (errors.BadRequest, 400, "Bad request"),
    (errors.Unauthorized, 401, "A token is needed"),
    (errors.Forbidden, 403, "Not allowed here"),
    (errors.NotFound, 404, "Not found"),
    (errors.NotAcceptable, 406, "Nothing acceptable"),
    (errors.NotRenderable, 406, "Cannot be shown like this"),
    (errors.TooSlow, 408, "Too slow"),
    (errors.SelfTestRunning, 409, "A self-test is under way"),
    (errors.TooLarge, 413, "Too large"),
    (errors.UnsupportedMediaType, 415, "Not a media type that is taken"),
    (errors.DecoderTimeout, 422, "Decoding was stopped"),
    (errors.CorruptPixelData, 422, "Corrupt pixel data"),
    (errors.UnsupportedTransferSyntax, 501, "No decoder for this transfer syntax"),
    (errors.NoProcessorTime, 503, "No processor time"),
    (errors.Overloaded, 503, "Overloaded"),
    (errors.StorageFull, 507, "No room to store this"),
    (errors.RenderError, 500, "Cannot be rendered"),
)


#: For every router: what any error looks like, in place of FastAPI's own 422.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Any error, as problem+json; docs/api.md lists them.",
        "content": {
            "application/problem+json": {
                "example": {
                    "type": "urn:gpu-render:problem:not-found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "no study 1.2.3",
                    "instance": "/api/studies/1.2.3/series/1.2.3.1",
                }
            }
        },
    }
}


def problem(status: int, kind: str, title: str, detail: str, request: Request) -> Response:
    """A problem document. ``type`` is a URN that names the error class; what it is about becomes members."""
    body: dict[str, object] = {
        "type": f"urn:gpu-render:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.scope["path"],  # request.url would read the Host header, which may be anything
        **_subject(request),
    }
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, media_type="application/problem+json")


def _subject(request: Request) -> dict[str, str]:
    """SOP Instance UID and frame number of a request about a frame, as far as they are well-formed."""
    frame = str(request.path_params.get("frame", ""))
    try:
        subject = {"sop_instance_uid": check_uid(str(request.path_params.get("instance", "")))}
    except errors.InvalidUid:
        return {}
    return {**subject, "frame_number": frame} if frame.isascii() and frame.isdigit() else subject


def _kind(error: type[Exception]) -> str:
    """``CorruptPixelData`` -> ``corrupt-pixel-data``."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in error.__name__).lstrip("-")


def explained(error: errors.RenderError) -> dict[str, object]:
    """What an error decides of a problem document, for answers that hold one for each of several things."""
    status, title = next((status, title) for cls, status, title in STATUS if isinstance(error, cls))
    return {
        "type": f"urn:gpu-render:problem:{_kind(type(error))}",
        "title": title,
        "status": status,
        "detail": str(error),
    }


async def core_error(request: Request, error: Exception) -> Response:
    """The problem document of a RenderError."""
    status, title = next((status, title) for cls, status, title in STATUS if isinstance(error, cls))
    detail = str(error)
    uid = _subject(request).get("sop_instance_uid", "")
    if uid and uid not in re.findall(r"[0-9.]*[0-9]", detail):
        detail = f"{detail} (SOP Instance UID {uid})"
    response = problem(status, _kind(type(error)), title, detail, request)
    if isinstance(error, errors.Overloaded):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="gpu-render"'
    if isinstance(error, errors.TooSlow):
        response.headers["Connection"] = "close"  # the rest of the request would be read as the next one
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    titles = {404: "No such resource", 405: "Method not allowed"}
    response = problem(status, f"http-{status}", titles.get(status, "Refused"), "see /docs for what there is", request)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _invalid_parameter(request: Request, error: Exception) -> Response:
    names = (
        sorted({str(item["loc"][-1]) for item in error.errors()}) if isinstance(error, RequestValidationError) else []
    )
    return problem(400, "bad-request", "Bad request", f"not understood: {', '.join(names)}", request)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with a problem document."""
    app.add_exception_handler(errors.RenderError, core_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_middleware(Boundary)


def _with_brief_reason(send: Send) -> Send:
    """Let a failed start say why in a line, where it is an error that knows what to do, instead of a traceback."""

    async def send_brief(message: Message) -> None:
        error = sys.exc_info()[1]
        if message["type"] == "lifespan.startup.failed" and isinstance(error, (errors.RenderError, BackendUnavailable)):
            message = {**message, "message": str(error)}
        await send(message)

    return send_brief


class Boundary:
    """Pure ASGI: turns an unforeseen exception into a 500, and logs where it came from but not its text.

    The text of a foreign exception can quote element values, so neither the answer nor the log holds it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, _with_brief_reason(send))
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception as error:  # noqa: BLE001 - the last boundary: nothing may end the process or leak text
            response = unforeseen(Request(scope), error)
            if not started:
                await response(scope, receive, send)


def unforeseen(request: Request, error: Exception) -> Response:
    """A 500 for an exception that is no RenderError, after logging where it came from."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    where = "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    log.error("unforeseen %s at\n%s", type(error).__name__, where)
    detail = f"an unforeseen {type(error).__name__}; the server's log says where"
    return problem(500, "internal", "Internal error", detail, request)
