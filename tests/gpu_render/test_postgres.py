"""What only a server can do: go away, refuse, hold another program's tables."""

import contextlib
import logging
from collections.abc import Iterator

import pytest

from gpu_render.archive.index import FileKey, Index
from gpu_render.errors import NotFound, Overloaded, StartupError
from gpu_render.reference import FrameRef
from gpu_render.settings import Settings
from tests.gpu_render.test_index import ROOT, change, document, spans_of
from tests.postgres import Postgres, postgres_server

REF = FrameRef("1.1", "1.1.1", "1.7", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One that these tests may stop."""
    with postgres_server() as started:
        yield started


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    with server.schema() as found:
        yield found


@pytest.fixture
def index(url: str) -> Iterator[Index]:
    with contextlib.closing(Index(None, url=url)) as opened:
        opened.set_roots([ROOT])
        opened.write([change("a", document("1.7"), spans_of(1))])
        yield opened


def test_a_server_that_is_started_anew_is_found_again(server: Postgres, index: Index, url: str) -> None:
    assert index.find(REF).span == (1000, 10)
    server.stop()
    try:
        for ask in (lambda: index.find(REF), index.counts, index.generation, index.studies):
            with pytest.raises(Overloaded, match="does not answer") as error:
                ask()
            assert error.value.retry_after_s > 0
        with pytest.raises(Overloaded):
            index.write([change("b", document("1.8"))])
    finally:
        server.start()
    assert index.find(REF).span == (1000, 10)
    assert not index.write([change("b", document("1.8"))])
    assert index.counts() == (2, 2)
    # The lock went with its connection, and is held again.
    with pytest.raises(StartupError, match="another gpu-render"):
        Index(None, url=url)


def test_who_lost_the_lock_to_another_writes_nothing(server: Postgres, index: Index, url: str) -> None:
    server.stop()
    server.start()
    with contextlib.closing(Index(None, url=url)) as other:
        with pytest.raises(Overloaded):
            index.write([change("b", document("1.8"))])
        with pytest.raises(Overloaded):
            index.remove([FileKey(ROOT, b"a")])
        assert other.counts() == (1, 1)
    assert not index.write([change("b", document("1.8"))])


def test_a_connection_survives_what_is_not_held(index: Index) -> None:
    for _ in range(3):
        with pytest.raises(NotFound):
            index.find(FrameRef("1.1", "1.1.1", "1.9", 1))
    assert len(index._db._idle) == 1


def test_tables_of_another_program_are_left_alone(server: Postgres, url: str) -> None:
    schema = url.rpartition("%3D")[2]
    server.execute(f"CREATE TABLE {schema}.study (important integer)", f"INSERT INTO {schema}.study VALUES (7)")
    with pytest.raises(StartupError, match="another program"):
        Index(None, url=url)
    server.execute(f"ALTER TABLE {schema}.study DROP COLUMN important")  # it is still there


def test_schemas_are_indexes_of_their_own(server: Postgres, index: Index) -> None:
    with server.schema() as other, contextlib.closing(Index(None, url=other)) as second:
        assert second.counts() == (0, 0)
        assert index.counts() == (1, 1)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("postgresql://nobody:hunter2@/postgres?host={folder}", "does not answer, or there is none"),
        ("postgresql://postgres:hunter2@/nowhere?host={folder}", "does not answer, or there is none"),
        ("postgresql://postgres:hunter2@/postgres?host={folder}/absent", "does not answer"),
        ("postgresql://postgres:hunter2@/postgres?host={folder}&options=-csearch_path%3Dabsent", "may not make tables"),
        ("postgresql://limited:hunter2@/postgres?host={folder}", "may not make tables"),
        ("postgresql://postgres:hunter2@/latin?host={folder}", "not in UTF8"),
        ("postgresql://postgres:hun@ter2@/postgres?host={folder}", "."),
        ("mysql://postgres:hunter2@/postgres", "begin with postgresql"),
        ("hunter2", "is none"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(
    server: Postgres, made: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(Exception):  # of the first time round
        server.execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", "CREATE ROLE limited LOGIN"
        )
    caplog.set_level(logging.DEBUG)
    if "hun@ter2" in made:
        Index(None, url=made.format(folder=server.folder)).close()  # nobody is asked for one here
        return
    with pytest.raises(StartupError, match=message) as error:
        Index(None, url=made.format(folder=server.folder))
    assert "hunter" not in f"{error.value} {error.value.__cause__} {caplog.text}"


def test_settings_do_not_show_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_RENDER_INDEX_URL", "postgresql://a:hunter2@b/c")
    assert Settings().index_url == "postgresql://a:hunter2@b/c"
    assert "hunter2" not in f"{Settings()!r} {Settings()}"
