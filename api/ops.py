"""Health: is the process alive, and does it still make the right picture?"""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from api.problems import RESPONSES
from api.service import service_of
from gpu_render import __version__
from gpu_render.errors import RenderError
from gpu_render.probe import probe

router = APIRouter(prefix="/health", tags=["health"], responses=RESPONSES)

PROBE_LIMIT_S = 5.0


@router.get("/live", responses={200: {"content": {"application/json": {"example": {"status": "live"}}}}})
async def live() -> JSONResponse:
    """The process answers. Restart it when this fails."""
    return JSONResponse({"status": "live"}, headers={"Cache-Control": "no-store"})


_READY = {
    "status": "ready",
    "version": "0.1.0",
    "backend": "cuda",
    "device": "NVIDIA L4 ...",
    "problem": None,
    "recycle": False,
}


@router.get(
    "/ready",
    responses={
        200: {"content": {"application/json": {"example": _READY}}},
        503: {"description": "The probe picture is wrong, late or failed. Send no work here."},
    },
)
async def ready(request: Request) -> JSONResponse:
    """Renders a probe picture on the device that requests use and compares its hash with the known one.

    ``degraded``: the device was lost, and the CPU renders; every answer is right, but late. ``recycle`` asks for a new
    process in place of this one, which cannot use the device again.
    """
    renderer = service_of(request).renderer
    trouble: str | None = None
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            if not await probe(renderer):
                trouble = "the probe picture is wrong"
    except TimeoutError:
        trouble = f"the probe took more than {PROBE_LIMIT_S:.0f} s"
    except RenderError as error:
        trouble = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a device raises means: not ready
        trouble = f"the probe failed with {type(error).__name__}"
    lost = renderer.device.lost
    works = "ready" if lost is None else "degraded"
    body = {
        "status": works if trouble is None else "not ready",
        "version": __version__,
        "backend": renderer.backend.name,
        "device": renderer.backend.description,
        "problem": trouble or (lost and f"the device is lost ({lost}); the CPU renders"),
        "recycle": lost is not None,
    }
    return JSONResponse(body, 200 if trouble is None else 503, headers={"Cache-Control": "no-store"})
