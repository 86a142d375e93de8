"""``python -m tests.conformance``: compare this service with DCMTK, GDCM, pydicom and highdicom, file by file."""

import argparse
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.conformance.ours import other_backends
from tests.conformance.run import Run, run
from tests.conformance.samples import corpus_samples
from tests.conformance.table import markdown, rich_table, totals, totals_rows


def versions() -> str:
    """Names and versions of the readers."""
    packages = ("pydicom", "highdicom", "python-gdcm", "pylibjpeg-openjpeg", "pillow", "pyjpegls")
    dcmtk = subprocess.run(["dcm2pnm", "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
    return ", ".join([f"DCMTK {dcmtk.lstrip('v')}", *(f"{name} {version(name)}" for name in packages)])


def backends() -> str:
    """What was compared byte for byte."""
    return "; ".join(["NumPy", *(f"{backend.name} ({backend.description})" for backend in other_backends())])


def compare_everything(console: Console, only: str) -> Run:
    """The run, with a bar."""
    columns = TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("files", total=None)
        return run(lambda done, total: bar.update(task, completed=done, total=total), only)


def main() -> int:
    """0 where nothing is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="write the whole table there")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    if shutil.which("dcm2pnm") is None:
        console.print("DCMTK is not installed: scripts/apt-install dcmtk")
        return 2
    if not corpus_samples():
        console.print(
            "the folder of real DICOM files is absent (GPU_RENDER_CORPUS): only pydicom's samples are compared"
        )
    result = compare_everything(console, options.only)
    console.print(rich_table(result.rows))
    counted = totals(result)
    summary = Table(show_header=False)
    for name, text in totals_rows(counted):
        summary.add_row(name, text)
    console.print(summary)
    if options.markdown:
        options.markdown.write_text(markdown(result, versions(), backends()))
    return 1 if counted.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
