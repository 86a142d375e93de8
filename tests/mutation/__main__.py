"""``python -m tests.mutation``: mutants of real files through the service; see ``--help``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tests.mutation.report import faults, markdown, show
from tests.mutation.run import run


def main() -> int:
    """Run, show, and leave with 1 where something was found that must not happen."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=2400, help="mutants (2400)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same mutants (1)")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args()
    console = Console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=min(done, total))

        result = run(options.count, options.seed, step)
    console = Console(width=max(console.width, 200)) if not console.is_terminal else console
    show(result, console)
    if options.markdown:
        options.markdown.write_text(markdown(result))
    return 1 if faults(result) else 0


if __name__ == "__main__":
    sys.exit(main())
