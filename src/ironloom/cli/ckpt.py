"""``ironloom ckpt``: look at checkpoints without loading them. Never imports torch."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ironloom.checkpoint.discovery import Finding

app = typer.Typer(help="List and verify checkpoints.", no_args_is_help=True)

EXIT_NOT_FOUND = 2
EXIT_DAMAGED = 3

_SHOW_PROGRESS_FROM = 500_000_000  # bytes; below, the answer comes at once

PathArgument = Annotated[Path, typer.Argument(help="A checkpoint, a folder of checkpoints, or the output folder of a run.")]


@app.command("ls")
def ls(
    path: PathArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """List checkpoints: step, time, size, and whether all files are there (contents are not read).

    Example: ironloom ckpt ls output/quickstart
    """
    rows = [_row(finding) for finding in _find(path)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            typer.echo("\t".join(_cells(row)))


@app.command("verify")
def verify(path: PathArgument) -> None:
    """Read every file of every checkpoint and compare it with what was saved.

    Exit code 0: all are good; 3: at least one is damaged; 2: there are none.

    Example: ironloom ckpt verify output/quickstart
    """
    from ironloom.checkpoint.discovery import inspect

    found = _find(path)
    with _Progress(sum(finding.checkpoint.size for finding in found if finding.checkpoint)) as progress:
        judged = [inspect(finding.path, deep=True, progress=progress.advance) for finding in found]
    for finding in judged:
        size = f"{finding.checkpoint.size:,} bytes" if finding.checkpoint else ""
        typer.echo(f"{finding.path}: " + (f"damaged: {'; '.join(finding.damages)}" if finding.damages else f"good, {size}"))
    if any(finding.damages for finding in judged):
        raise typer.Exit(EXIT_DAMAGED)


def _find(path: Path) -> list[Finding]:
    """The checkpoints that ``path`` means, in order of time; ends the command if there are none."""
    from ironloom.checkpoint.discovery import findings, inspect, is_checkpoint

    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        _stop(f"{path} {what}")
    if is_checkpoint(path):
        return [inspect(path, deep=False)]
    found = findings(path) or findings(path / "checkpoints")
    if not found:
        _stop(f"{path} holds no checkpoints")
    return found


def _stop(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(EXIT_NOT_FOUND)


def _row(finding: Finding) -> dict[str, object]:
    checkpoint = finding.checkpoint
    return {
        "path": str(finding.path),
        "step": checkpoint.step if checkpoint else finding.step,
        "time": checkpoint.time if checkpoint else None,
        "size": checkpoint.size if checkpoint else None,
        "complete": not finding.damages,
        "damages": finding.damages,
        "best": bool(checkpoint and checkpoint.info.get("best") is True),
    }


_HEADINGS = ["step", "time", "size", "state", ""]


def _cells(row: dict[str, object]) -> list[str]:
    """One line of the listing as text, in the order of the headings."""
    moment, size, damages = row["time"], row["size"], row["damages"]
    return [
        str(row["step"]),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if isinstance(moment, float) else "-",
        _human(size) if isinstance(size, int) else "-",
        "complete" if row["complete"] else "damaged: " + "; ".join(map(str, damages if isinstance(damages, list) else [])),
        "best" if row["best"] else "",
    ]


def _print_table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*_HEADINGS, box=None)
    for row in rows:
        style = "" if row["complete"] else "red"
        table.add_row(*(Text(cell, style=style) for cell in _cells(row)))
    Console().print(table)


def _human(size: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class _Progress:
    """A progress bar over ``total`` bytes on a terminal's error stream, where it is worth one."""

    def __init__(self, total: int):
        self._total = total
        self._is_shown = total >= _SHOW_PROGRESS_FROM and sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        if self._is_shown:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            bar = Progress("verifying", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True))
            self._bar = bar
            self._task = bar.add_task("verify", total=self._total)
            bar.start()
        return self

    def advance(self, num_bytes: int) -> None:
        if self._is_shown:
            self._bar.advance(self._task, num_bytes)

    def __exit__(self, *error: object) -> None:
        if self._is_shown:
            self._bar.stop()
