"""``/docs`` and ``/benchmarks``: pages that were built with the viewer, so that nothing comes from elsewhere."""

from fastapi import APIRouter
from starlette.responses import FileResponse, RedirectResponse, Response

from viewer import DIST

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The page that shows ``/openapi.json``."""
    return _page("docs.html", "/openapi.json")


@router.get("/benchmarks", include_in_schema=False)
async def benchmarks() -> Response:
    """The page that draws ``/api/benchmarks``."""
    return _page("benchmarks.html", "/api/benchmarks")


def _page(name: str, shown: str) -> Response:
    """A built page; where it is not built, what it would show."""
    page = DIST / name
    if not page.is_file():
        return RedirectResponse(shown)
    return FileResponse(page, headers={"Cache-Control": "no-cache"})
