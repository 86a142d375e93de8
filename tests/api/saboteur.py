"""``python -m tests.api.saboteur serve ...``: the service as it is, but its decoders obey codestreams that are orders.

Everything else is decoded as ever. It logs at DEBUG, which no operator can ask for: what is not logged there is logged
nowhere.
"""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gpu_render import worker_operations

ORDER = b"SABOTAGE "
GATED_ROWS = 64
"""An image of so many rows and columns may take long: its decoder waits for a test to open a gate."""
GATE_LIMIT_S = 30.0

Answer = tuple[dict[str, Any], bytes]


def order(*words: object) -> bytes:
    """A codestream that is an order."""
    text = ORDER + " ".join(map(str, words)).encode()
    return text + b" " * (len(text) % 2)


def decode(meta: dict[str, Any], payload: memoryview) -> Answer:
    """The worker operation ``decode``."""
    if bytes(payload[: len(ORDER)]) != ORDER:
        from gpu_render.decode.codecs import decode_payload

        answer, flat = decode_payload(meta, payload)
        return answer, bytes(flat)
    word, *arguments = bytes(payload[len(ORDER) :]).decode().split()
    if word in _LIES:
        return _LIES[word](meta, *arguments)
    options = {"signal": int(arguments[0])} if arguments else {"mebibytes": 65536}
    misbehave: Callable[[dict[str, Any], memoryview], Answer] = getattr(worker_operations, word)
    return misbehave(options, payload)


def _samples(meta: dict[str, Any]) -> bytes:
    return bytes(meta["layout"]["rows"] * meta["layout"]["columns"] * 2)


def _short(meta: dict[str, Any]) -> Answer:
    return {"photometric_interpretation": "MONOCHROME2"}, _samples(meta)[2:]


def _foreign(meta: dict[str, Any], name: str) -> Answer:
    return {"photometric_interpretation": name}, _samples(meta)


def _wait(meta: dict[str, Any], gate: str) -> Answer:
    while not Path(gate).exists():
        time.sleep(0.01)
    return {"photometric_interpretation": "MONOCHROME2"}, _samples(meta)


_LIES: dict[str, Callable[..., Answer]] = {"short": _short, "foreign": _foreign, "wait": _wait}


def main() -> None:
    """The command line with other decoders, a longer limit for gated images, and all log records."""
    import api.app
    import api.cli
    import gpu_render.decode
    from gpu_render.workers import OPERATIONS, WorkerPool

    operations = {**OPERATIONS, "decode": "tests.api.saboteur:decode"}
    usual_limit, usual_logging = gpu_render.decode.time_limit_s, api.cli.set_up_logging

    def limit(size: int) -> float:
        return GATE_LIMIT_S if size == 2 * GATED_ROWS**2 else usual_limit(size)

    def log_everything() -> None:
        usual_logging()
        for name in (None, "uvicorn", "asyncio"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger("saboteur").debug("all is logged")

    for module, name, other in (
        (api.app, "WorkerPool", functools.partial(WorkerPool, operations=operations)),
        (gpu_render.decode, "time_limit_s", limit),
        (api.cli, "set_up_logging", log_everything),
    ):
        setattr(module, name, other)
    api.cli.app()


if __name__ == "__main__":
    main()
