"""The service over an index in a real PostgreSQL: it answers what it answers over a SQLite file."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.api.served import ROOT, SERVICE, Served, serving
from tests.api.test_several import GPUS, both_serve, eventually, frame_urls, told
from tests.data import sample, write_image
from tests.postgres import Postgres

NAMES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "rtplan.dcm")
FILES = len(NAMES) + 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of pydicom's, and a series of three of which one is there twice."""
    folder = tmp_path_factory.mktemp("postgres") / "root"
    for number in (1, 2, 3, 3):
        pixels = np.full((8, 6), number, np.uint16)
        path = folder / "series" / f"{len(list(folder.rglob('*.dcm')))}.dcm"
        write_image(path, pixels, SOPInstanceUID=f"1.2.9.{number}", InstanceNumber=number, PatientName="Müller^Ann")
    for name in NAMES:
        (folder / name).write_bytes(sample(name).read_bytes())
    return folder


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.schema() as found:
        yield found


SEARCHES = (
    "studies",
    "studies?PatientName=m%C3%BCller*&includefield=all",
    "studies?PatientName=ann&fuzzymatching=true",
    "studies?ModalitiesInStudy=CT,MR&limit=1&offset=1",
    "studies?StudyDate=-20050101",
    "series?Modality=CT&includefield=all",
    "series",
    "instances?includefield=all",
    "instances?limit=2&offset=3",
    "studies?StudyDate=junk",
)


def test_answers_are_those_over_a_file(root: Path, tmp_path: Path, url: str) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "database").mkdir()
    environment = {"GPU_RENDER_INDEX_URL": url}
    with (
        serving(root, tmp_path / "file") as file,
        serving(root, tmp_path / "database", environment=environment) as database,
    ):
        for service in (file, database):
            service.wait_for_files(FILES)
        frames = frame_urls(file)
        assert len(frames) == 7
        series = sorted({frame.partition("/instances/")[0] for frame in frames})
        urls = [*frames, *series, "/api/studies", "/api/index", "/dicom-viewer/api/image/3/data/"]
        urls += [f"/dicomweb/{search}" for search in SEARCHES]
        urls += [f"{one.replace('/api/', '/dicomweb/')}/metadata" for one in series]
        for url_ in urls:
            answers = [told(service.ask(url_)) for service in (file, database)]
            assert answers[0][0] in (200, 400), url_
            bodies = [
                body.replace(f":{s.port}/".encode(), b":1/")
                for (*_, body), s in zip(answers, (file, database), strict=True)
            ]
            assert bodies[0] == bodies[1], url_
        second = subprocess.run(
            [sys.executable, *SERVICE, "serve", str(root), "--port", "0", "--backend", "cpu"],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode != 0
        assert "another gpu-render uses this index" in second.stderr
        assert "postgresql://" not in second.stderr + database.log.read_text()
    with serving(root, tmp_path / "database", environment=environment) as again:
        again.wait_for_files(FILES)
        assert frame_urls(again) == frames


def test_processes_of_several_gpus_share_a_database(root: Path, tmp_path: Path, url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="several-") as temporary:  # sockets' paths are limited
        environment = {"GPU_RENDER_WORKERS": "1", "TMPDIR": temporary, "GPU_RENDER_INDEX_URL": url}
        with serving(root, tmp_path, options=GPUS, environment=environment) as service:
            service.wait_for_files(FILES)
            eventually(lambda: both_serve(service), "two workers")
            assert {answered(service, frame) for frame in frame_urls(service)} == {200}


def answered(service: Served, url: str) -> int:
    return service.ask(url).status
