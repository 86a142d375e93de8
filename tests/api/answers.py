"""A service inside the test over files that it wrote, and the frame route's answers as arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.testclient import TestClient

from api.app import create_app
from gpu_render.settings import Settings
from tests.api.conftest import wait_for_scan

Array = npt.NDArray[Any]
STUDY, SERIES = "1.2.4.1", "1.2.4.1.1"
"""What ``tests.data.image`` writes into every file."""


class Answers:
    """A running service; ``state`` is what /api/index said when the scan was over."""

    def __init__(self, client: TestClient, state: dict[str, Any]) -> None:
        self.client = client
        self.state = state

    def get(self, uid: str, frame: int = 1, **parameters: str) -> Any:
        """The frame route's answer, whatever it is."""
        url = f"/api/studies/{STUDY}/series/{SERIES}/instances/{uid}/frames/{frame}"
        return self.client.get(url, params=parameters)

    def array(self, uid: str, frame: int = 1, stage: str = "display", **parameters: str) -> Array:
        """The answer as its own headers describe it."""
        response = self.get(uid, frame, stage=stage, **parameters)
        assert response.status_code == 200, response.text
        assert response.headers["x-array-stage"] == stage
        shape = tuple(map(int, response.headers["x-array-shape"].split(",")))
        return np.frombuffer(response.content, response.headers["x-array-dtype"]).reshape(shape)


@contextmanager
def serve(root: Path, workers: int = 1, **settings: Any) -> Iterator[Answers]:
    """A service over the files below ``root``, scanned."""
    app = create_app(Settings(roots=(root,), backend="cpu", workers=workers, **settings))
    with TestClient(app, "http://127.0.0.1") as client:
        yield Answers(client, wait_for_scan(client))


def assert_problem(response: Any, status: int, uid: str, *words: str) -> None:
    """A problem document with this status, the SOP Instance UID, these words, and no patient attribute."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail = response.json()["detail"]
    assert uid in detail
    assert not [word for word in words if word not in detail], detail
    assert "Test^Case" not in response.text
