"""The routes of single frames, called past the framework's router.

FastAPI describes them, and calls them as well where a request is more than a plain GET. But it matches routes and
solves parameters anew for each request, which takes longer than to answer with a frame that is held; here the same
handlers are called with the same parameters, and the same errors become the same problem documents.
"""

import re
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute, APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.cors import CrossOrigin
from api.metrics import Metrics
from api.negotiation import LONGEST_REMEMBERED
from api.problems import core_error, unforeseen
from gpu_render.errors import RenderError

Handler = Callable[..., Coroutine[Any, Any, Response]]
Pair = tuple[bytes, bytes]
AddHeaders = Callable[[Iterable[Pair]], list[Pair]]


def _read(query: bytes) -> Mapping[str, str]:
    """Names and values; of a name that is given twice the last, as Starlette's ``QueryParams.get`` does."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


_read_usual = lru_cache(maxsize=512)(_read)


@dataclass(frozen=True, slots=True)
class _Direct:
    """A route's pattern, its handler, and the names in the query that the handler takes."""

    route: APIRoute
    path: re.Pattern[str]
    handler: Handler
    names: frozenset[str]


def _checked(route: APIRoute) -> _Direct:
    """Raises ValueError for a route that needs more than the request and texts from its path and query."""
    needs, query = route.dependant, route.dependant.query_params
    others = (needs.header_params, needs.cookie_params, needs.body_params, needs.dependencies, route.dependencies)
    plain = all(field.field_info.annotation is str for field in needs.path_params) and all(
        field.field_info.annotation == (str | None) and field.alias == field.name and field.default is None
        for field in query
    )
    if any(others) or not plain or needs.request_param_name != "request" or route.methods != {"GET"}:
        raise ValueError(f"{route.path} is more than a GET with texts in its path and query")
    return _Direct(route, route.path_regex, route.endpoint, frozenset(field.name for field in query))


def route_of(router: APIRouter, handler: Handler) -> APIRoute:
    """The route of ``router`` that ``handler`` answers. Raises StopIteration where there is none."""
    return next(route for route in router.routes if isinstance(route, APIRoute) and route.endpoint is handler)


class Direct:
    """Pure ASGI: a GET of one of ``routes`` is answered by its handler, all else by ``app``.

    Stands before the middleware that makes what an answer needs of each message, and gives the same to its own answers
    at once: ``added`` puts the headers of security to others, ``metrics`` counts, pages of ``origins`` may read. Raises
    ValueError for a route that needs more of the framework."""

    def __init__(
        self, app: ASGIApp, routes: Sequence[APIRoute], metrics: Metrics, added: AddHeaders, origins: Sequence[str] = ()
    ) -> None:
        self._app = app
        self._routes = tuple(map(_checked, routes))
        self._metrics = metrics
        self._added = added
        self._cors = CrossOrigin(app, origins) if origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and not scope["root_path"]:
            for direct in self._routes:
                found = direct.path.match(scope["path"])
                if found is not None:
                    await self._answer(direct, found.groupdict(), Request(scope, receive), send)
                    return
        await self._app(scope, receive, send)

    async def _answer(self, direct: _Direct, parameters: dict[str, Any], request: Request, send: Send) -> None:
        scope, status, begun = request.scope, 0, time.perf_counter()
        scope["route"], scope["path_params"] = direct.route, parameters
        try:
            response = await _response(direct, parameters, request)
            response.raw_headers = self._added(response.raw_headers)
            if self._cors is not None:
                send = partial(self._cors.send, send=send, request_headers=request.headers)
            status = response.status_code
            await response(scope, request.receive, send)
        except Exception as error:  # noqa: BLE001 - as api.problems.Boundary
            unforeseen(request, error)  # in mid-answer: the server closes the connection
        finally:
            self._metrics.observe(direct.route.path, status, time.perf_counter() - begun)


async def _response(direct: _Direct, parameters: dict[str, Any], request: Request) -> Response:
    query = request.scope["query_string"]
    if query:
        read = (_read_usual if len(query) <= LONGEST_REMEMBERED else _read)(query)
        parameters = parameters | {name: read[name] for name in direct.names if name in read}
    try:
        return await direct.handler(request=request, **parameters)
    except RenderError as error:
        return await core_error(request, error)
    except Exception as error:  # noqa: BLE001 - as api.problems.Boundary
        return unforeseen(request, error)
