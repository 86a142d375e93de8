"""Rows of cells as a table: on the terminal, and in Markdown."""

from collections.abc import Collection, Sequence

from rich.table import Table

Row = Sequence[str]


def terminal(title: str, columns: Row, rows: Sequence[Row], text: Collection[int] = (0,), caption: str = "") -> Table:
    """``text``: which columns hold words, and stand to the left; the others hold figures."""
    made = Table(title=title or None, caption=caption or None, header_style="bold")
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index in text else "right")
    for row in rows:
        made.add_row(*row)
    return made


def markdown(columns: Row, rows: Sequence[Row], text: Collection[int] = (0,)) -> str:
    """The same, without title and caption, and without a line's end behind the last row."""
    rule = ["---" if index in text else "--:" for index in range(len(columns))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *rows))
