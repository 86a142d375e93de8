"""``/docs``: the OpenAPI description, readable without the internet."""

from fastapi import APIRouter
from starlette.responses import FileResponse, RedirectResponse, Response

from viewer import DIST

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The page that shows ``/openapi.json``; built with the viewer, so that nothing comes from elsewhere."""
    page = DIST / "docs.html"
    if not page.is_file():
        return RedirectResponse("/openapi.json")
    return FileResponse(page, headers={"Cache-Control": "no-cache"})
