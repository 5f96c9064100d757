"""How a run tells people where it is: rich bars on a terminal, plain lines elsewhere, nothing when asked."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Advance = Callable[[float], None]


class Progress:
    """Says nothing; what library calls use unless told otherwise."""

    def say(self, line: str) -> None:
        """Tell one line."""

    @contextlib.contextmanager
    def count(self, what: str, total: int, unit: str = "videos") -> Iterator[Advance]:
        """Show a count growing to ``total``; yields a function that takes how many more are done."""
        yield lambda n: None


class PlainProgress(Progress):
    """A line when something starts and ends, and at most one every ten seconds between."""

    every_s = 10.0

    def say(self, line: str) -> None:
        """Print the line on standard error."""
        print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def count(self, what: str, total: int, unit: str = "videos") -> Iterator[Advance]:
        """Print counts with rate and time to go."""
        started = told = time.monotonic()
        done = 0.0

        def advance(n: float) -> None:
            nonlocal done, told
            done += n
            now = time.monotonic()
            if now - told >= self.every_s:
                told = now
                rate = done / (now - started)
                to_go = f", {clock((total - done) / rate)} to go" if rate else ""
                self.say(f"{what}: {done:.0f}/{total} {unit}, {rate:.2g} a second{to_go}")

        self.say(f"{what}: {total} {unit}")
        yield advance
        self.say(f"{what}: {done:.0f}/{total} {unit} in {clock(time.monotonic() - started)}")


class RichProgress(Progress):
    """Bars with rate and time to go."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def say(self, line: str) -> None:
        """Print the line on standard error."""
        self._console.print(line, highlight=False, markup=False)

    @contextlib.contextmanager
    def count(self, what: str, total: int, unit: str = "videos") -> Iterator[Advance]:
        """Show a bar."""
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description:<12}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn(unit + " {task.fields[rate]}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total, rate="")

            def advance(n: float) -> None:
                speed = bar.tasks[0].speed
                bar.update(task, advance=n, rate=f"{speed:.1f}/s" if speed else "")

            yield advance


def make_progress(quiet: bool) -> Progress:
    """Return what fits the place that standard error goes to."""
    if quiet:
        return Progress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


def clock(seconds: float) -> str:
    """Spell a duration as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
