"""The tables of the index, for SQLite and PostgreSQL alike. See docs/decisions/0004 and 0012."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

SCHEMA_VERSION = 6
"""Raised with every change of a table, of what a column means or of what parsing makes of a file: an index of another
version is rebuilt."""
CHUNK_FRAMES = 128
"""Spans kept in one row: 2 KiB, less than a page, so that any frame of an object costs one small read."""
SPAN_BYTES = 16

# SQLite's row ids have to be called INTEGER; they hold 64 bits all the same.
KEY: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
# Compared byte by byte, as SQLite does it: one order of answers, and ranges that an index serves.
TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")

TABLES = MetaData()


def _key(name: str, *, primary_key: bool = False) -> Column[int]:
    return Column(name, KEY, primary_key=primary_key, nullable=False, autoincrement=False)


def _text(name: str) -> Column[str]:
    return Column(name, TEXT, nullable=False)


def _number(name: str) -> Column[int | None]:
    return Column(name, BigInteger)


# --- what survives a rebuild --------------------------------------------------------------------------------

# Ids are promised to clients: this table is never deleted from. SQLite's AUTOINCREMENT is that of older versions.
image = Table(
    "image",
    TABLES,
    Column("id", KEY, primary_key=True),
    Column("sop_instance_uid", TEXT, nullable=False, unique=True),
    sqlite_autoincrement=True,
)
# One row. ``generation`` counts up with every change to what was held, for all processes that share the index.
state = Table("state", TABLES, _key("id", primary_key=True), Column("generation", BigInteger, nullable=False))
KEPT = (image, state)

# --- files --------------------------------------------------------------------------------------------------

root = Table("root", TABLES, _key("id", primary_key=True), Column("path", LargeBinary, nullable=False, unique=True))
folder = Table(
    "folder",
    TABLES,
    _key("id", primary_key=True),
    _key("root_id"),
    Column("path", LargeBinary, nullable=False),
    UniqueConstraint("root_id", "path"),
)
file = Table(
    "file",
    TABLES,
    _key("id", primary_key=True),
    _key("folder_id"),
    Column("name", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("reason", TEXT),
    Column("duplicate_of", TEXT),
    UniqueConstraint("folder_id", "name"),
)
for _column in (file.c.reason, file.c.duplicate_of):
    _there = _column.is_not(None)
    Index(f"file_{_column.name}", _column, sqlite_where=_there, postgresql_where=_there)

# --- studies, series, instances -----------------------------------------------------------------------------

# ``*_day`` and ``*_clock`` are YYYYMMDD and HHMMSS.FFFFFF, empty where the file says nothing that is a date or a time.
study = Table(
    "study",
    TABLES,
    _key("id", primary_key=True),
    Column("study_instance_uid", TEXT, nullable=False, unique=True),
    _text("patient_name"),
    _text("patient_id"),
    _text("study_date"),
    _text("study_time"),
    _text("study_description"),
    _text("accession_number"),
    _text("study_day"),
    _text("study_clock"),
    _text("issuer_of_patient_id"),
    _text("birth_day"),
    _text("patient_sex"),
    _text("id_of_study"),
    _text("attributes"),
    _key("said_id"),
)
Index("study_order", study.c.study_day.desc(), study.c.study_clock.desc(), study.c.study_instance_uid)
for _name in ("accession_number", "birth_day", "id_of_study"):
    Index(f"study_{_name}", study.c[_name])

series = Table(
    "series",
    TABLES,
    _key("id", primary_key=True),
    _key("study_id"),
    _text("series_instance_uid"),
    _text("modality"),
    _number("series_number"),
    _text("series_description"),
    _text("body_part"),
    _text("series_day"),
    _text("series_clock"),
    _text("step_day"),
    _text("step_clock"),
    _text("attributes"),
    _key("said_id"),
    Column("instance_count", BigInteger, nullable=False, server_default="0"),
    Column("frame_count", BigInteger, nullable=False, server_default="0"),
    Column("sop_classes", TEXT, nullable=False, server_default=""),
    Column("thumbnail_uid", TEXT),
    _number("thumbnail_frame"),
    UniqueConstraint("study_id", "series_instance_uid"),
)
Index("series_uid", series.c.series_instance_uid)

# What files say of their study, or of their series: once, however many say the same. ``body`` is the row that would be
# made of it. The study's or series' own row is that of the file that is the last one by its path: ``said_id``.
said = Table(
    "said",
    TABLES,
    _key("id", primary_key=True),
    _key("owner_id"),
    Column("level", SmallInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    _text("body"),
    UniqueConstraint("owner_id", "level", "digest"),
)
# What is matched apart from a row, and whichever file says it: names, each component group by itself, the words of
# names, ids of patients, of their issuers and of requests.
term = Table(
    "term",
    TABLES,
    _key("owner_id"),
    _key("said_id"),
    Column("kind", SmallInteger, nullable=False),
    _text("value"),
    Index("term_value", "kind", "value", "owner_id"),
    Index("term_said", "said_id"),
)

# ``of_study`` and ``of_series``: what its file says of them. Places of native pixels are those that ``parse`` gives.
instance = Table(
    "instance",
    TABLES,
    _key("image_id", primary_key=True),
    Column("file_id", KEY, nullable=False, unique=True),
    _key("series_id"),
    _key("of_study"),
    _key("of_series"),
    _text("sop_class_uid"),
    _number("instance_number"),
    Column("slice_thickness", Float(53)),
    _text("transfer_syntax_uid"),
    Column("number_of_frames", BigInteger, nullable=False),
    Column("error_kind", TEXT),
    Column("error", TEXT),
    Column("layout", TEXT),
    Column("geometry", TEXT),
    Column("attributes", TEXT),
    _number("pixel_offset"),
    _number("frame_bits"),
    _number("word_swap"),
    _number("frames_whole"),
    _number("inflate_offset"),
)
Index("instance_series", instance.c.series_id)

# --- what hangs on an instance ------------------------------------------------------------------------------

presentation = Table(
    "presentation",
    TABLES,
    _key("image_id", primary_key=True),
    _key("number", primary_key=True),
    _text("record"),
    sqlite_with_rowid=False,
)
frame = Table(
    "frame",
    TABLES,
    _key("image_id", primary_key=True),
    _key("frame_number", primary_key=True),
    _key("presentation"),
    _text("geometry"),
    sqlite_with_rowid=False,
)
span = Table(
    "span",
    TABLES,
    _key("image_id", primary_key=True),
    _key("chunk", primary_key=True),
    Column("spans", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
# The data set as zlib-compressed JSON text; no row where it is made when it is asked for.
metadata = Table("metadata", TABLES, _key("image_id", primary_key=True), Column("body", LargeBinary, nullable=False))
OF_INSTANCES = (instance, presentation, frame, span, metadata)

REBUILT = tuple(table for table in TABLES.sorted_tables if table not in KEPT)
