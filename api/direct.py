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
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.again import Again, Key, Remembered, Repeatable, key_of
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


@dataclass(frozen=True, slots=True)
class Asked:
    """A request by its route and what its path says. ``again``: how to answer it, where it was answered before."""

    direct: _Direct
    parameters: dict[str, str]
    again: Again | None = None


class Direct:
    """Pure ASGI: a GET of one of ``routes`` is answered by its handler, all else by ``app``.

    Stands before the middleware that makes what an answer needs of each message, and gives the same to its own answers
    at once: ``added`` puts the headers of security to others, ``metrics`` counts, pages of ``origins`` may read. How to
    answer again what is asked again stands in ``remembered``. Raises ValueError for a route that needs more of the
    framework."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[APIRoute],
        metrics: Metrics,
        added: AddHeaders,
        remembered: Remembered[Asked],
        origins: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._routes = tuple(map(_checked, routes))
        self._metrics = metrics
        self._added = added
        self._cors = CrossOrigin(app, origins) if origins else None
        self._remembered = remembered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and not scope["root_path"]:
            key = key_of(scope)
            asked = (None if key is None else self._remembered.find(key)) or self._asked(scope["path"])
            if asked is not None:
                await self._answer(asked, key, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _asked(self, path: str) -> Asked | None:
        for direct in self._routes:
            found = direct.path.match(path)
            if found is not None:
                return Asked(direct, found.groupdict())
        return None

    async def _answer(self, asked: Asked, key: Key | None, scope: Scope, receive: Receive, send: Send) -> None:
        status, begun = 0, time.perf_counter()
        scope["route"], scope["path_params"] = asked.direct.route, asked.parameters
        try:
            response = await self._response(asked, key, scope, receive)
            response.raw_headers = self._added(response.raw_headers)
            if self._cors is not None:
                send = partial(self._cors.send, send=send, request_headers=Headers(scope=scope))
            status = response.status_code
            await response(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - as api.problems.Boundary
            unforeseen(Request(scope), error)  # in mid-answer: the server closes the connection
        finally:
            self._metrics.observe(asked.direct.route.path, status, time.perf_counter() - begun)

    async def _response(self, asked: Asked, key: Key | None, scope: Scope, receive: Receive) -> Response:
        try:
            response = None if asked.again is None else asked.again()
            if response is not None:
                return response
            response = await _handled(asked, Request(scope, receive))
        except RenderError as error:
            return await core_error(Request(scope), error)
        except Exception as error:  # noqa: BLE001 - as api.problems.Boundary
            return unforeseen(Request(scope), error)
        if key is not None and isinstance(response, Repeatable) and response.again is not None:
            self._remembered.keep(key, Asked(asked.direct, asked.parameters, response.again))
        return response


def _handled(asked: Asked, request: Request) -> Coroutine[Any, Any, Response]:
    """The handler's answer."""
    parameters, query = asked.parameters, request.scope["query_string"]
    if query:
        read = (_read_usual if len(query) <= LONGEST_REMEMBERED else _read)(query)
        parameters = parameters | {name: read[name] for name in asked.direct.names if name in read}
    return asked.direct.handler(request=request, **parameters)
