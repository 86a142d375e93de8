"""Files that are replaced while a service runs: what is said of an instance is of the file that is there now."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.dicomweb import frames, pictures
from gpu_render.pictures.encode import encode
from tests.api.answers import SERIES, STUDY, Answers, serve
from tests.data import write_image

UID = "1.2.4.1.1.7"
INSTANCE = f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{UID}"
DECODED = {"Accept": 'multipart/related; type="application/octet-stream"'}


def put(root: Path, rows: int) -> None:
    write_image(root / "one.dcm", np.full((rows, 8), rows, np.uint16), SOPInstanceUID=UID)


def rows_of(answers: Answers) -> int:
    found: int = answers.client.get(f"{INSTANCE}/metadata").json()[0]["00280010"]["Value"][0]
    return found


def test_metadata_of_an_instance_are_those_of_its_frames(tmp_path: Path) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:
        assert rows_of(answers) == 10
        put(tmp_path, 4)
        assert rows_of(answers) == 4


@pytest.mark.parametrize("leaf", ["metadata", "frames/1", "rendered", "bulkdata/7FE00010"])
def test_an_etag_of_the_old_file_is_not_confirmed(tmp_path: Path, leaf: str) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:
        old = answers.client.get(f"{INSTANCE}/{leaf}")
        again = answers.client.get(f"{INSTANCE}/{leaf}", headers={"If-None-Match": old.headers["etag"]})
        assert (old.status_code, again.status_code) == (200, 304)
        put(tmp_path, 4)
        new = answers.client.get(f"{INSTANCE}/{leaf}", headers={"If-None-Match": old.headers["etag"]})
        assert new.status_code == 200
        assert new.headers["etag"] != old.headers["etag"]


def test_a_list_of_frames_is_of_the_new_file_at_once(tmp_path: Path) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:
        assert answers.client.get(f"{INSTANCE}/frames/1", headers=DECODED).status_code == 200
        put(tmp_path, 4)
        both = answers.client.get(f"{INSTANCE}/frames/1,1", headers=DECODED)
        assert both.status_code == 200
        assert both.content.count(np.full((4, 8), 4, np.uint16).tobytes()) == 2


def test_a_file_that_has_gone_is_404(tmp_path: Path) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:
        etag = answers.client.get(f"{INSTANCE}/metadata").headers["etag"]
        (tmp_path / "one.dcm").unlink()
        assert answers.client.get(f"{INSTANCE}/metadata", headers={"If-None-Match": etag}).status_code == 404
        assert answers.client.get(f"{INSTANCE}/frames/1,1").status_code == 404


@pytest.mark.parametrize("tag", ["7FE00008", "7FE00009"])
def test_pixels_have_one_element_only(tmp_path: Path, tag: str) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:
        assert answers.client.get(f"{INSTANCE}/bulkdata/7FE00010").status_code == 200
        assert answers.client.get(f"{INSTANCE}/bulkdata/{tag}").status_code == 404


def test_head_knows_no_ranges(tmp_path: Path) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:
        whole = answers.client.get(f"{INSTANCE}/frames/1", headers=DECODED)
        head = answers.client.head(f"{INSTANCE}/frames/1", headers={**DECODED, "Range": "bytes=0-9"})
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))


@pytest.mark.parametrize(("origins", "policy"), [((), "same-origin"), (("http://viewer.example",), "cross-origin")])
def test_pages_of_listed_origins_may_show_pictures_as_they_are(
    tmp_path: Path, origins: tuple[str, ...], policy: str
) -> None:
    put(tmp_path, 10)
    with serve(tmp_path, cors_origins=origins) as answers:
        thumbnail = answers.client.get(f"{INSTANCE}/thumbnail")
        assert thumbnail.status_code == 200
        assert thumbnail.headers["cross-origin-resource-policy"] == policy


@pytest.mark.parametrize("accept", ['multipart/related; type="application/octet-stream"', "application/octet-stream"])
def test_a_frame_that_was_kept_is_of_the_old_file_for_a_moment_at_most(
    tmp_path: Path, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:

        def ask(**headers: str) -> tuple[int, dict[str, str], bytes]:
            got = answers.client.get(f"{INSTANCE}/frames/1", headers={"Accept": accept, **headers})
            return got.status_code, dict(got.headers), got.content

        first = ask()
        for _ in range(3):  # not kept, kept, from what is kept
            assert ask() == first
        part = ask(Range="bytes=2-9")
        assert (part[0], part[2]) == (206, first[2][2:10])
        assert ask(**{"If-None-Match": first[1]["etag"]})[0] == 304
        monkeypatch.setattr(frames, "LOOK_S", 0.0)
        put(tmp_path, 4)
        new = ask()
        assert new[1]["etag"] != first[1]["etag"]
        assert new[2].count(np.full((4, 8), 4, np.uint16).tobytes()) == 1
        assert ask(**{"If-None-Match": first[1]["etag"]})[0] == 200
        (tmp_path / "one.dcm").unlink()
        assert ask()[0] == 404


@pytest.mark.parametrize("accept", ["image/jpeg", "image/png"])
def test_a_picture_that_was_kept_is_not_of_the_old_file(tmp_path: Path, accept: str) -> None:
    put(tmp_path, 10)
    with serve(tmp_path) as answers:

        def ask(**parameters: str) -> tuple[int, int, dict[str, str], bytes]:
            """Pictures that were encoded, and the answer."""
            before = len(encoded)
            got = answers.client.get(f"{INSTANCE}/rendered", params=parameters, headers={"Accept": accept})
            return len(encoded) - before, got.status_code, dict(got.headers), got.content

        def counted(*given: Any) -> bytes:
            encoded.append(1)
            return encode(*given)

        encoded: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pictures, "encode", counted)
            first = ask()
            assert [ask() for _ in range(4)] == [first, *[(0, *first[1:])] * 3]
            assert ask(annotation="technique", viewport="200,200")[3] != first[3]
            assert ask(viewport="8,8")[0] == 1
            put(tmp_path, 4)
            new = ask()
            assert new[0] == 1
            assert new[2]["etag"] != first[2]["etag"]
            assert Image.open(io.BytesIO(new[3])).size == (8, 4)
            (tmp_path / "one.dcm").unlink()
            assert ask()[1] == 404
