"""The progress bar of all commands that count things."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(
    *fields: str, console: Console | None = None, transient: bool = False, hidden: bool = False
) -> Progress:
    """A bar on stderr; silent where that is not a terminal, since a log keeps lines.

    Args:
        fields: names of the texts behind the count, which every task and update may set.
        console: instead of one on stderr.
        transient: remove the bar when it is done.
        hidden: show none on a terminal either.
    """
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in fields),
        TimeRemainingColumn(),
        console=console,
        disable=hidden or not console.is_terminal,
        transient=transient,
    )
