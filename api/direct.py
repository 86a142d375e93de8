"""The routes of single frames, called past the framework's router.

FastAPI describes them, and calls them as well where a request is more than a plain GET. But it matches routes and
solves parameters anew for each request, which takes longer than to answer with a frame that is held; here the same
handlers are called with the same parameters, and the same errors become the same problem documents.
"""

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute, APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.negotiation import LONGEST_REMEMBERED
from api.problems import core_error
from gpu_render.errors import RenderError

Handler = Callable[..., Coroutine[Any, Any, Response]]


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

    Stands inside whatever looks at ``scope["route"]`` or at unforeseen errors. Raises ValueError for a route that
    needs more of the framework."""

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._routes = tuple(map(_checked, routes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and not scope["root_path"]:
            for direct in self._routes:
                found = direct.path.match(scope["path"])
                if found is not None:
                    response = await _answer(direct, found.groupdict(), Request(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _answer(direct: _Direct, parameters: dict[str, Any], request: Request) -> Response:
    scope = request.scope
    scope["route"], scope["path_params"] = direct.route, parameters
    query = scope["query_string"]
    if query:
        read = (_read_usual if len(query) <= LONGEST_REMEMBERED else _read)(query)
        parameters = parameters | {name: read[name] for name in direct.names if name in read}
    try:
        return await direct.handler(request=request, **parameters)
    except RenderError as error:
        return await core_error(request, error)
