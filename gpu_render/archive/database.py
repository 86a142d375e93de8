"""Where the index is kept: a SQLite file, or a PostgreSQL database. All that differs between the two is here."""

import contextlib
import fcntl
import os
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import Select

from gpu_render.archive.tables import KEPT, REBUILT, SCHEMA_VERSION, TABLES
from gpu_render.errors import Overloaded, RenderError, StartupError

APPLICATION_ID = 0x47505552
WRITER = APPLICATION_ID + 1
RETRY_S = 5
"""How long a client is asked to wait when the database does not answer."""


class Prepared:
    """A statement that was compiled once, for the one look-up that every frame costs: no part of SQLAlchemy is run
    for it again. Only for columns whose values pass through as they are."""

    def __init__(self, engine: Engine, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        self._names: tuple[str, ...] | None = None
        if compiled.positional:
            self._names = tuple(compiled.positiontup or ())

    def one(self, connection: Connection, values: Mapping[str, object]) -> tuple[Any, ...] | None:
        """The first row, None where there is none."""
        driver: Any = connection.connection.dbapi_connection
        given = values if self._names is None else [values[name] for name in self._names]
        row: tuple[Any, ...] | None = driver.execute(self._sql, given).fetchone()
        return row


def insert_many(db: Connection, table: Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of these columns, at least two, whose values pass through as they are: the driver's fastest way."""
    driver: Any = db.connection.dbapi_connection
    values = map(itemgetter(*names), rows)
    listed = ", ".join(f'"{name}"' for name in names)
    if db.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        driver.executemany(f'INSERT INTO "{table.name}" ({listed}) VALUES ({marks})', values)  # noqa: S608 - constants
        return
    with driver.cursor().copy(f'COPY "{table.name}" ({listed}) FROM STDIN') as copy:
        for row in values:
            copy.write_row(row)


class Database:
    """Connections to one index. Any thread may read at any time, each on a connection of its own; writers, of all
    processes, wait for each other. Every statement outside a transaction stands for itself.

    Raises StartupError where the database cannot be used or another service uses it.
    """

    begin_reading: str
    begin_writing: tuple[str, ...]
    foreign: str

    def __init__(self, engine: Engine, *, shared: bool) -> None:
        self.engine = engine
        self._idle: list[Connection] = []
        self._idle_lock = threading.Lock()
        self._write_lock = threading.Lock()
        try:
            with self._connected() as db:
                if shared:
                    self._require_set_up(db)
                else:
                    self._set_up(db)
        except DBAPIError as error:
            self.close()
            raise StartupError(self._unusable(error)) from None
        except StartupError:
            self.close()
            raise

    def _unusable(self, error: DBAPIError) -> str:
        """What to tell the operator about an error while the index is opened."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections and let others use the index; no other method may run or follow. May be called
        again."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self.engine.dispose()

    # --- making the tables ----------------------------------------------------------------------------------

    def _found_version(self, db: Connection) -> int | None:
        """Version of the index that is there: 0 where there are no tables. None where they are another program's."""
        raise NotImplementedError

    def _write_version(self, db: Connection) -> None:
        raise NotImplementedError

    def _set_up(self, db: Connection) -> None:
        found = self._found_version(db)
        if found is None:
            raise StartupError(self.foreign)
        if found == SCHEMA_VERSION:
            return
        with self._transaction(db):
            TABLES.drop_all(db, tables=REBUILT)
            TABLES.create_all(db, tables=[*KEPT, *REBUILT])
            db.execute(text("INSERT INTO state (id, generation) SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM state)"))
            self._write_version(db)

    def _require_set_up(self, db: Connection) -> None:
        if self._found_version(db) != SCHEMA_VERSION:
            raise StartupError("the shared index has not been made yet")

    def share(self) -> None:
        """Let processes that open the index as ``shared`` use it as well, but no other service."""
        raise NotImplementedError

    # --- connections ----------------------------------------------------------------------------------------

    def prepare(self, statement: Select[Any]) -> Prepared:
        """See Prepared."""
        return Prepared(self.engine, statement)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection, kept for later unless the block ends in another error than ours."""
        with self._idle_lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self.engine.connect()
        try:
            yield connection
        except RenderError:
            self._keep(connection)
            raise
        except BaseException:
            connection.close()  # takes back what it has not committed
            raise
        self._keep(connection)

    def _keep(self, connection: Connection) -> None:
        with self._idle_lock:
            self._idle.append(connection)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Connection]:
        """A connection for this thread. Raises Overloaded where the database does not answer."""
        try:
            with self._connected() as connection:
                yield connection
        except Exception as error:
            if not self._is_gone(error):
                raise
            self._forget_idle()  # a server that was started anew knows none of them
            raise Overloaded("the index does not answer at the moment", RETRY_S) from None

    def _is_gone(self, error: Exception) -> bool:
        """Whether an error is that of the connection or of a lock that was not to be had, and not of a statement."""
        driver: Any = self.engine.dialect.loaded_dbapi
        return isinstance(getattr(error, "orig", error), driver.OperationalError | driver.InterfaceError)

    def _forget_idle(self) -> None:
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A reader whose queries all see the index as it was at the first."""
        with self.reader() as db:
            db.exec_driver_sql(self.begin_reading)
            try:
                yield db
            finally:
                db.exec_driver_sql("ROLLBACK")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """The one writer of all processes; nothing is kept where the block ends in an error."""
        with self._write_lock, self.reader() as db, self._transaction(db):
            yield db

    @contextlib.contextmanager
    def _transaction(self, db: Connection) -> Iterator[None]:
        for statement in self.begin_writing:
            db.exec_driver_sql(statement)
        try:
            yield
        except BaseException:
            with contextlib.suppress(DBAPIError):  # of a connection that is gone
                db.exec_driver_sql("ROLLBACK")
            raise
        db.exec_driver_sql("COMMIT")

    def analyze(self, db: Connection) -> None:
        """Count what is in the tables, in a sample of bounded size."""
        db.exec_driver_sql("ANALYZE")

    # --- matching -------------------------------------------------------------------------------------------

    def like(self, column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """Whether text has a form: ``*`` stands for any characters, ``?`` for one (PS3.4 C.2.2.2.4)."""
        raise NotImplementedError


# --- SQLite -------------------------------------------------------------------------------------------------


class SqliteDatabase(Database):
    """One file, or a temporary one where ``path`` is None. The lock of a file beside it keeps other services off."""

    begin_reading = "BEGIN"
    begin_writing = ("BEGIN IMMEDIATE",)
    foreign = "the index file belongs to another program; name another"

    def __init__(self, path: Path | None, *, shared: bool = False) -> None:
        self._temporary = None if path else tempfile.TemporaryDirectory(prefix="gpu-render-")
        self.path = path or Path(self._temporary.name if self._temporary else "") / "index.sqlite"
        self._lock_fd = _claim(self.path, shared)
        engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True
        )
        super().__init__(engine, shared=shared)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA analysis_limit = 1000")
        return connection

    def _unusable(self, error: DBAPIError) -> str:
        return f"the index file cannot be used ({error.orig}): remove it or name another"

    def _found_version(self, db: Connection) -> int | None:
        marks = [db.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("application_id", "user_version")]
        if marks[0] == APPLICATION_ID:
            return int(marks[1])
        return None if inspect(db).get_table_names() else 0

    def _set_up(self, db: Connection) -> None:
        super()._set_up(db)
        db.exec_driver_sql("PRAGMA journal_mode = WAL")

    def _write_version(self, db: Connection) -> None:
        db.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        db.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def share(self) -> None:
        """Let processes that open the file as ``shared`` use it as well, but no other service."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Close all connections and give the file free."""
        super().close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        if self._temporary is not None:
            self._temporary.cleanup()

    def like(self, column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """By GLOB, since LIKE takes ASCII letters of both cases for the same."""
        return column.op("GLOB", is_comparison=True)(pattern.replace("[", "[[]"))


def _claim(path: Path, shared: bool) -> int:
    """A descriptor whose lock keeps other services off this index: of one process, or of all that share it. The files
    are the user's alone: they hold names."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"the index file cannot be written ({error.strerror}): name another (--index)") from None
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StartupError("another gpu-render uses this index file: stop it, or name another (--index)") from None
    return lock


# --- PostgreSQL ---------------------------------------------------------------------------------------------

_MARK = "gpu_render_index"
"""The table that says whose the others are, and of which version."""
_READ_MARK = "SELECT version FROM gpu_render_index"
_SCHEMA_KEY = "hashtext(coalesce(current_schema(), ''))"


class PostgresDatabase(Database):
    """The tables in the current schema of a database; an advisory lock, held by one more connection, keeps other
    services off. Neither URL nor the driver's words are ever shown: they may hold a password."""

    begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    begin_writing = ("BEGIN", f"SELECT pg_advisory_xact_lock({WRITER}, {_SCHEMA_KEY})")
    foreign = "the index database has tables of another program in this schema; name another"

    def __init__(self, url: str, *, shared: bool = False) -> None:
        engine = _postgres_engine(url)
        self._shared = shared
        self._claim_lock = threading.Lock()
        try:
            self._claim = self._claimed(engine)
        except DBAPIError as error:
            raise StartupError(self._unusable(error)) from None
        super().__init__(engine, shared=shared)

    def _claimed(self, engine: Engine) -> Connection:
        """A connection whose session holds the lock. Raises StartupError where another service does."""
        connection = engine.connect()
        kind = "_shared" if self._shared else ""
        claim = f"SELECT pg_try_advisory_lock{kind}({APPLICATION_ID}, {_SCHEMA_KEY})"
        if not connection.exec_driver_sql(claim).scalar_one():
            connection.close()
            raise StartupError("another gpu-render uses this index database: stop it, or name another schema")
        return connection

    def share(self) -> None:
        """Let processes that open the index as ``shared`` use it as well, but no other service."""
        for call in ("pg_advisory_lock_shared", "pg_advisory_unlock"):  # a session may hold both: no gap between them
            self._claim.exec_driver_sql(f"SELECT {call}({APPLICATION_ID}, {_SCHEMA_KEY})")
        self._shared = True

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """The one writer of all processes. Where a restart of the server took the lock with it, it is taken anew.
        Raises Overloaded where another service was faster."""
        with self._claim_lock:
            self._claim_anew()
        with super().transaction() as db:
            yield db

    def _claim_anew(self) -> None:
        try:
            self._claim.exec_driver_sql("SELECT 1")
        except SQLAlchemyError:  # of a connection that is lost, or was closed here before
            self._claim.close()
            self._forget_idle()
            try:
                self._claim = self._claimed(self.engine)
            except (DBAPIError, StartupError):
                raise Overloaded("the index is not to be had at the moment", RETRY_S) from None

    def close(self) -> None:
        """Close all connections; the lock goes with its own."""
        self._claim.close()
        super().close()

    def _unusable(self, error: DBAPIError) -> str:
        state = getattr(error.orig, "sqlstate", None)
        if state is None:  # it came from no session
            return "the index database does not answer, or there is none for this URL's host, name, user and password"
        if state in ("42501", "3F000"):
            return "the user of the index database may not make tables in this schema"
        return f"the index database cannot be used (SQLSTATE {state})"

    def _found_version(self, db: Connection) -> int | None:
        if db.exec_driver_sql("SHOW server_encoding").scalar_one() != "UTF8":
            raise StartupError("the index database is not in UTF8: make another (createdb -E UTF8 -T template0)")
        found = set(inspect(db).get_table_names())
        if _MARK in found:
            return int(db.exec_driver_sql(_READ_MARK).scalar_one())
        return None if found & set(TABLES.tables) else 0

    def _write_version(self, db: Connection) -> None:
        db.exec_driver_sql(f"DROP TABLE IF EXISTS {_MARK}")
        db.exec_driver_sql(f"CREATE TABLE {_MARK} AS SELECT {SCHEMA_VERSION} AS version")

    def like(self, column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
        """By LIKE, of which every character of its own is escaped."""
        escaped = re.sub(r"[\\%_]", r"\\\g<0>", pattern).replace("*", "%").replace("?", "_")
        return column.like(escaped, escape="\\")


def _postgres_engine(url: str) -> Engine:
    """Raises StartupError for what is no URL of a PostgreSQL database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartupError("the index URL is none: postgresql://USER@HOST/DATABASE") from None
    if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StartupError("the index URL is to begin with postgresql:// (a SQLite file is named by its path)")
    try:
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )
    except ModuleNotFoundError:
        raise StartupError("an index in PostgreSQL needs its driver: pip install 'gpu-render[postgres]'") from None
