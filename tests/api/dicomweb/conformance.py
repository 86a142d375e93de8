"""``python -m tests.api.dicomweb.conformance``: write the tables of docs/dicomweb.md anew from its TOML file."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[3] / "docs"
STATEMENT = DOCS / "dicomweb.md"
Row = dict[str, Any]


def rows() -> dict[str, list[Row]]:
    """The TOML file's tables: offered, transfer_syntax and refused."""
    found: dict[str, list[Row]] = tomllib.loads((DOCS / "dicomweb-conformance.toml").read_text("utf-8"))
    return found


def statuses(row: Row) -> list[int]:
    """What is answered, in order."""
    return sorted({ask["status"] for ask in row["asks"]})


def _table(*lines: tuple[str, ...]) -> str:
    header, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([header, "|" + "---|" * len(lines[0]), *body])


def _offered(found: list[Row]) -> str:
    head = ("resource", "request", "PS3.18", "query parameters", "media types", "answers")
    return _table(head, *((
        row["name"], f"`{row['request']}`", row["section"], row.get("parameters", ""), row["media"],
        ", ".join(map(str, statuses(row))),
    ) for row in found))  # fmt: skip


def _transcoding(found: list[Row]) -> str:
    head = (
        "stored as",
        "`transfer-syntax=*`",
        "Explicit VR Little Endian",
        "HTJ2K RPCL",
        "media type of a stored frame",
    )

    def shown(row: Row, name: str) -> str:
        return "yes" if row[name] else "406"

    return _table(head, *((
        f"{row['name']} ({row['uid']})", row["star"], shown(row, "explicit"), shown(row, "htj2k"), row["media"]
    ) for row in found))  # fmt: skip


def _refused(found: list[Row]) -> str:
    head = ("what", "PS3.18", "answer", "why")
    return _table(
        head, *((row["what"], row["section"], ", ".join(map(str, statuses(row))), row["why"]) for row in found)
    )


def tables() -> Iterator[tuple[str, str]]:
    """(mark, table) for each of the document's tables."""
    found = rows()
    yield "offered", _offered(found["offered"])
    yield "transcoding", _transcoding(found["transfer_syntax"])
    yield "refused", _refused(found["refused"])


def written(document: str) -> str:
    """The document with its tables as they have to be."""
    for mark, table in tables():
        start = f"<!-- conformance: {mark} -->\n"
        before, found, after = document.partition(start)
        assert found, f"docs/dicomweb.md has no place for the table {mark}"
        document = before + start + table + "\n" + after[after.index("<!-- end -->") :]
    return document


if __name__ == "__main__":
    STATEMENT.write_text(written(STATEMENT.read_text("utf-8")), "utf-8")
