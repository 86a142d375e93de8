"""One worker of ``serve --gpus``: ``python -m api.worker_process``, started by ``api.supervisor`` only.

Stdin brings one line of JSON (``Order``) and then stays open for as long as the supervisor lives: its end means stop,
however the supervisor ended. The service itself is the one of a single process, on a Unix socket.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from api.app import create_app
from api.lines import fast_networks
from api.sending import Connection, allow_connections
from gpu_render.memory import collect_rarely, keep_freed_memory
from gpu_render.settings import Settings

DRAIN_S = 10
"""How long requests under way may take after the order to stop."""
STARTUP_FAILED = 3


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker shall be: its number, its socket's path, and the fields of its Settings as JSON values."""

    number: int
    socket: str
    settings: dict[str, Any]

    def line(self) -> bytes:
        """As it goes through the pipe."""
        return json.dumps(asdict(self)).encode() + b"\n"


def _service(settings: Settings) -> ASGIApp:
    return create_app(settings, reads_gpus=False)  # the supervisor's own process tells NVML's figures, once


def main(make_app: Callable[[Settings], ASGIApp] = _service) -> int:
    """Serve until SIGTERM or until the supervisor is gone. Returns the exit status."""
    order = Order(**json.loads(_read_line(0)))
    _set_up_logging(order.number)
    keep_freed_memory()
    collect_rarely()
    allow_connections()
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    settings = Settings(**order.settings)
    config = uvicorn.Config(
        make_app(settings),
        uds=order.socket,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,  # the front's own server writes it
        proxy_headers=True,
        forwarded_allow_ips="*",  # whoever may connect to the socket: the front, or a proxy of the operator's
        timeout_keep_alive=75,  # longer than the front keeps idle connections, so that it never sends into a closed one
        timeout_graceful_shutdown=DRAIN_S,
        http=Connection.with_limit(settings.stall_limit_s, fast_networks(settings)),
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    finally:
        Path(order.socket).unlink(missing_ok=True)
    return 0 if server.started else STARTUP_FAILED


def _read_line(descriptor: int) -> bytes:
    """One line, without a buffer that would swallow more."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        if not part:
            raise SystemExit("started by hand: this is a worker of gpu-render serve --gpus")
        line += part
    return line


def _end_with_supervisor() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(DRAIN_S + 5)
    os._exit(1)  # something does not end; nobody is left who would kill it


def _set_up_logging(number: int) -> None:
    form = f"%(asctime)s %(levelname)s worker {number}: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("pydicom").disabled = True  # its messages quote element values


if __name__ == "__main__":
    sys.exit(main())
