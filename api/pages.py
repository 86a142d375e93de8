"""The viewer's static files at ``/``."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from viewer import DIST

_NOT_BUILT = (
    "<!doctype html><title>gpu-render</title><h1>The viewer is not built</h1>"
    "<p>The service works; see <a href='/docs'>/docs</a>. To build the viewer, run <code>make setup</code> in the "
    "source tree, or install the gpu-render wheel, which brings it.</p>"
)


class ViewerFiles(StaticFiles):
    """Static files; hashed assets may be kept for ever, the page itself is asked for anew."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        hashed = path.startswith("assets/")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response


def mount(app: FastAPI) -> None:
    """Serve the viewer at ``/``, or a page that says how to build it."""
    if (DIST / "index.html").is_file():
        app.mount("/", ViewerFiles(directory=DIST, html=True), name="viewer")
        return

    @app.get("/", include_in_schema=False)
    async def not_built(_: Request) -> Response:
        return HTMLResponse(_NOT_BUILT, 503)
