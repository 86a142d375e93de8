"""A real PostgreSQL of Debian's for tests: made in a temporary folder, on a Unix socket, ended with the session."""

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

PROGRAMS = Path("/usr/lib/postgresql")
MISSING = "needs PostgreSQL (Debian package postgresql) and, where this runs as root, its user postgres"
_numbers = itertools.count(1)


class Postgres:
    """A running server. Its superuser is ``postgres`` and nobody is asked for a password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = _bin()
        self._as = _as_user()

    def run(self, program: str, *options: str) -> None:
        """One of PostgreSQL's programs, as a user that is not root."""
        command: Sequence[str] = (*self._as, str(self.bin / program), *options)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start the server; it answers when this returns."""
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c synchronous_commit=off -c max_connections=60"
        self.run(
            "pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options
        )

    def stop(self) -> None:
        """End it, and all connections."""
        self.run("pg_ctl", "stop", "-m", "fast", "-D", str(self.folder / "data"))

    def url(self, schema: str = "public", database: str = "postgres") -> str:
        """As GPU_RENDER_INDEX_URL has it; tables are made in ``schema``."""
        options = quote(f"-csearch_path={schema}", safe="")
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='')}&options={options}"

    def execute(self, *statements: str) -> None:
        """As the superuser, each by itself."""
        import psycopg

        with psycopg.connect(f"host={self.folder} user=postgres dbname=postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextlib.contextmanager
    def schema(self) -> Iterator[str]:
        """A URL of a schema of its own."""
        name = f"test_{next(_numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        yield self.url(name)
        self.execute(f"DROP SCHEMA {name} CASCADE")


def _bin() -> Path:
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found or (os.geteuid() == 0 and not (_has_user() and shutil.which("runuser"))):
        if "CI" in os.environ:
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found[-1].parent


def _has_user() -> bool:
    return any(entry.pw_name == "postgres" for entry in pwd.getpwall())


def _as_user() -> tuple[str, ...]:
    return ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server until the block ends. Skips the test, in CI fails it, where there is no PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-render-postgres-"))
    try:
        server = Postgres(folder)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        server.run(
            "initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
