"""A worker of the supervisor that renders nothing and misbehaves as its path says: ``python -m tests.api.fake_worker``.

FAKE_WORKER_DIR is a folder of notes: ``recycle-<pid>`` and ``unready-<pid>`` made by a test, the others made here.
"""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from api import worker_process
from gpu_render.settings import Settings

NOTES = Path(os.environ.get("FAKE_WORKER_DIR", "."))
PART = bytes(1 << 16)
PARTS = 4096
Headers = list[tuple[bytes, bytes]]


def note(name: str, text: str = "") -> None:
    (NOTES / name).write_text(text)


async def start(send: Send, status: int = 200, headers: Headers | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})


async def answer(send: Send, body: bytes, status: int = 200, headers: Headers | None = None) -> None:
    await start(send, status, [(b"content-length", str(len(body)).encode()), *(headers or [])])
    await send({"type": "http.response.body", "body": body})


async def ready(send: Send) -> None:
    recycle, unready = ((NOTES / f"{name}-{os.getpid()}").exists() for name in ("recycle", "unready"))
    body = {"status": "not ready" if unready else "degraded" if recycle else "ready", "recycle": recycle}
    await answer(send, json.dumps(body).encode(), 503 if unready else 200)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """What arrived, and headers that belong to one connection."""
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    found = {
        "method": scope["method"],
        "path": (scope["raw_path"] + b"?" + scope["query_string"]).decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "body": digest.hexdigest(),
        "pid": os.getpid(),
    }
    private: Headers = [(b"connection", b"x-mine"), (b"x-mine", b"1"), (b"set-cookie", b"a=b"), (b"etag", b'"e"')]
    await answer(send, json.dumps(found).encode(), headers=private)


async def flood(receive: Receive, send: Send) -> None:
    """256 MiB, noting how far it came and whether the client went."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        note("client-gone")

    listening = asyncio.ensure_future(listen())
    await start(send, headers=[(b"content-length", str(PARTS * len(PART)).encode())])
    for number in range(PARTS):
        await send({"type": "http.response.body", "body": PART, "more_body": number < PARTS - 1})
        note("flood", str(number))
    await listening


async def die(path: str, send: Send) -> None:
    """At once, or in the middle of a body of known or unknown length."""
    if "counted" in path:
        await start(send, headers=[(b"content-length", b"1000000")])
    elif "chunked" in path:
        await start(send)
    if "counted" in path or "chunked" in path:
        await send({"type": "http.response.body", "body": PART, "more_body": True})
        await asyncio.sleep(0.2)
    os._exit(7)


async def slow(send: Send) -> None:
    """The second half comes when a test says so."""
    await start(send, headers=[(b"content-length", b"10")])
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while not (NOTES / "finish").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"after"})


METRICS = b"# HELP some_total x\n# TYPE some_total counter\nsome_total 2.0\n"


def fake(settings: Settings) -> ASGIApp:
    if (NOTES / f"broken-{settings.device}").exists():
        raise SystemExit(5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
        elif path == "/health/ready":
            await ready(send)
        elif path == "/metrics":
            await answer(send, METRICS)
        elif path == "/not-modified":
            await start(send, 304, [(b"etag", b'"e"')])
            await send({"type": "http.response.body"})
        elif path == "/partial":
            await answer(send, b"56789", 206, [(b"content-range", b"bytes 5-9/10")])
        elif path.endswith("/flood"):
            await flood(receive, send)
        elif "/die" in path:
            await die(path, send)
        elif path.endswith("/slow"):
            await slow(send)
        else:
            await echo(scope, receive, send)

    return app


if __name__ == "__main__":
    sys.exit(worker_process.main(fake))
